// The Wan2.1 diffusion transformer as a Program (upstream: wan/modules/model.py; wan facts 1-11).
// Inputs: "context", fp32 [up to text_len, text_dim]; "latent", fp32 [in_dim, F, H, W];
// "timestep", one number on the 0..1000 scale.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "format/networks/wan_dit.hpp"
#include "models/denoising_network.hpp"
#include "models/dit_block.hpp"
#include "models/self_attention.hpp"

namespace quantsparse::models {

/// Sinusoidal embedding of a timestep on the 0..1000 scale: cosines, then sines (wan fact 2), zeros
/// up to a multiple of four. Computed in fp64.
std::vector<float> time_sinusoid(int freq_dim, double timestep);

class WanDit final : public DenoisingNetwork {
  public:
    WanDit(Program& program, const format::Network& network, const DenoisingOptions& options);

    std::uint32_t prompt_phase(int branch) const override {
        return prompt_phase_[static_cast<std::size_t>(branch)];
    }
    std::uint32_t step_phase(int branch,
                             attention::StepKind kind = attention::StepKind::dense) const override {
        return step_phase_.at({branch, kind});
    }
    Tensor prediction(int branch) const override {
        return velocity_[static_cast<std::size_t>(branch)];
    }
    void reset(program::Executor& executor) const override;
    std::string non_finite_site(const program::Executor& executor) const override {
        return watch_->first(executor);
    }
    const attention::ResidualState* residuals() const override { return attention_->residuals(); }
    std::vector<double> chosen_densities(const program::Executor& executor,
                                         int layer) const override {
        return attention_->chosen_densities(executor, layer);
    }
    const WeightSet& weights() const override { return weights_; }
    int tokens() const override { return grid_.tokens(); }

  private:
    struct Block {
        std::vector<Linear> self_qkv, self_o, cross_q, cross_kv, cross_o, ffn_0, ffn_2;
        Tensor self_norm_q, self_norm_k, cross_norm_q, cross_norm_k, norm3_weight, norm3_bias;
        kernels::FloatWeight linear_projection;  ///< proj_l, where the model has it
        std::vector<kernels::HeadMatrix> cross_keys, cross_values;  ///< per branch
    };
    /// What a step's blocks need to know.
    struct Step {
        int branch = 0;
        attention::StepKind kind = attention::StepKind::dense;
        bool kept = false;  ///< intermediates are
        Tensor modulation;  ///< six vectors for each block
    };
    enum class Part { self_attention, cross_attention, feed_forward };

    void declare_inputs();
    void declare_weights(const format::Network& network);
    Block declare_block(const format::NetworkBlock& block, const std::string& layer,
                        BlockLinears& linears);
    void build_prompt(int branch);
    void build_step(int branch, attention::StepKind kind);
    Matrix build_time(Step& step);
    Matrix build_patches();
    void build_head(const Step& step, const Matrix& x, Tensor head_modulation);
    void build_blocks(const Step& step, const Matrix& x);
    void build_self_attention(int index, const Step& step, const Matrix& x);
    void build_cross_attention(int index, const Step& step, const Matrix& x);
    void build_feed_forward(int index, const Step& step, const Matrix& x);
    void keep_middle(int index, const Step& step, const char* name, const Matrix& matrix);

    /// Vectors `shift`, `scale` and `gate` of a block.
    Modulation modulation(const Step& step, int index, int shift, int scale, int gate) const;
    /// The norm that reads what a part of a block made; block -1: the patch embedding.
    kernels::Norm norm_after(int index, Part part) const;
    kernels::HeadTransform rope(Tensor norm_weight) const;
    bool has_step(attention::StepKind kind) const;

    format::WanDitConfig config_;
    DenoisingOptions options_;
    Program& program_;
    WeightSet weights_;
    int layers_ = 0;
    int grid_rows_ = 0;
    int grid_columns_ = 0;
    TokenGrid grid_;
    int dim_stride_ = 0;  ///< dim rounded up to 4

    kernels::FloatWeight patch_embedding_, text_0_, text_2_, time_0_, time_2_, time_projection_,
        head_;
    Tensor modulation_tables_, head_modulation_, rope_table_;
    std::vector<Block> blocks_;

    Matrix context_;
    Tensor latent_, sinusoid_;
    std::vector<Tensor> velocity_;
    std::vector<std::uint32_t> prompt_phase_;
    std::map<std::pair<int, attention::StepKind>, std::uint32_t> step_phase_;

    /// Per branch, where some steps do without the blocks: what these last added to x.
    std::vector<Matrix> added_;

    std::optional<FiniteWatch> watch_;
    std::optional<SparseSelfAttention> attention_;
};

}  // namespace quantsparse::models
