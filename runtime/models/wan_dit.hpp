// The Wan2.1 diffusion transformer as a Program (upstream: wan/modules/model.py;
// wan facts 1-11).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "attention/block_mask.hpp"
#include "attention/residual_state.hpp"
#include "attention/step_schedule.hpp"
#include "format/model_config.hpp"
#include "kernels/rows.hpp"
#include "models/weights.hpp"

namespace quantsparse::models {

struct WanDitOptions {
    format::WanDitConfig config;
    int weight_bits = 16;        ///< 4, 6 or 8: the ten linears of each block are quantised
    int activation_bits = 16;    ///< 8 or 6 with quantised weights
    InputTransforms transforms;  ///< of the quantised linears
    int latent_frames = 0;       ///< latent grid before patching
    int latent_height = 0;       ///< a multiple of the patch
    int latent_width = 0;
    int branches = 1;   ///< 2 with classifier-free guidance: conditional, then unconditional
    bool half = false;  ///< float weights stored as halves
    int layers = 0;     ///< 0: all of the configuration's (benchmarks run one)

    AttentionParameters attention;  ///< of the self-attention; dense by default
    std::vector<attention::StepKind> step_kinds = {
        attention::StepKind::dense};  ///< phases to build
};

/// Sinusoidal embedding of a timestep on the 0..1000 scale: cosines, then sines (wan fact 2), zeros
/// up to a multiple of four. Computed in fp64.
std::vector<float> time_sinusoid(const format::WanDitConfig& config, double timestep);

/// Appends all operations to `program` and keeps the handles the host needs.
class WanDit {
  public:
    WanDit(Program& program, const WanDitOptions& options);

    /// Host-written before text_phase(b): fp32 [text_len, round_up(text_dim, 4)], zero after the
    /// prompt.
    Matrix context() const { return context_; }
    Tensor latent() const { return latent_; }      ///< fp32 [in_dim, F, H, W]
    Tensor sinusoid() const { return sinusoid_; }  ///< fp32 [freq_dim], from time_sinusoid()
    Tensor velocity(int branch) const { return velocity_[static_cast<std::size_t>(branch)]; }

    /// Once per prompt and branch: text MLP, then keys and values of every cross-attention.
    std::uint32_t text_phase(int branch) const {
        return text_phase_[static_cast<std::size_t>(branch)];
    }
    /// One forward pass of the branch: latent, sinusoid -> velocity. Throws std::out_of_range for a
    /// kind of step that was not asked for.
    std::uint32_t step_phase(int branch,
                             attention::StepKind kind = attention::StepKind::dense) const {
        return step_phase_.at({branch, kind});
    }

    /// Before the first step of a clip: writes the block lists, forgets residuals and types.
    void reset(program::Executor& executor) const;
    /// Where values first stopped being finite since reset(), for example "block 3, after
    /// self-attention"; empty when they didn't.
    std::string non_finite_site(const program::Executor& executor) const;
    const attention::ResidualState* residuals() const { return residuals_.get(); }

    const WeightSet& weights() const { return weights_; }
    int tokens() const { return tokens_; }

    std::vector<float> time_sinusoid(double timestep) const {
        return models::time_sinusoid(options_.config, timestep);
    }

  private:
    struct Block {
        Linear self_q, self_k, self_v, self_o, cross_q, cross_k, cross_v, cross_o, ffn_0, ffn_2;
        Tensor self_norm_q, self_norm_k, cross_norm_q, cross_norm_k, norm3_weight, norm3_bias;
        std::vector<kernels::HeadMatrix> cross_keys, cross_values;  ///< per branch
    };

    Linear linear(const std::string& name, int n, int k, const std::string& shares_input_with = {});
    void declare_weights();
    void build_text(int branch);
    void build_step(int branch, attention::StepKind kind);
    void build_block(int index, int branch, attention::StepKind kind, const Matrix& x,
                     Tensor modulation);
    /// Whether some steps do without the blocks, so that computed ones keep what the blocks added.
    bool reuses() const { return !added_.empty(); }
    /// Norm of tokens that are watched for values that aren't finite; `site` says what made them.
    kernels::Norm watched(const std::string& site);

    kernels::HeadTransform rope() const;

    // wan_attention.cpp
    bool has_step(attention::StepKind kind) const;
    void declare_attention();
    Matrix build_self_attention(int index, int branch, attention::StepKind kind,
                                const LinearInput& input);

    WanDitOptions options_;
    Program& program_;
    WeightSet weights_;
    int layers_ = 0;
    int tokens_ = 0;
    int grid_rows_ = 0;
    int grid_columns_ = 0;
    int dim_stride_ = 0;  ///< dim rounded up to 4

    kernels::FloatWeight patch_embedding_, text_0_, text_2_, time_0_, time_2_, time_projection_,
        head_;
    Tensor modulation_tables_, head_modulation_, rope_table_;
    std::vector<Block> blocks_;
    std::vector<std::pair<std::string, kernels::InputTransform>> transforms_;

    Matrix context_;
    Tensor latent_, sinusoid_;
    std::vector<Tensor> velocity_;
    std::vector<std::uint32_t> text_phase_;
    std::map<std::pair<int, attention::StepKind>, std::uint32_t> step_phase_;

    std::vector<Matrix> added_;  ///< per branch: what the blocks last added to x [tokens, dim]

    Tensor watch_;  ///< uint32 [sites]
    std::vector<std::string> sites_;

    attention::BlockMask mask_;
    kernels::BlockList blocks_list_;
    kernels::BlockList complete_list_;  ///< of refreshes that compute both results in one pass
    std::vector<Tensor> head_types_;    ///< uint32 [heads] for [branch, layer]
    std::unique_ptr<attention::ResidualState> residuals_;
};

}  // namespace quantsparse::models
