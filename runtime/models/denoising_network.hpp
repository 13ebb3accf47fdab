// The face of every transformer that predicts noise or velocity: what the pipeline, the benchmarks
// and the reference checks may know of one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/residual_state.hpp"
#include "attention/step_schedule.hpp"
#include "format/model_bundle.hpp"
#include "models/weights.hpp"

namespace quantsparse::models {

/// The latents of a clip, fp32 [channels, frames, height, width].
struct LatentShape {
    int channels = 0;
    int frames = 0;
    int height = 0;
    int width = 0;
    std::size_t count() const {
        return static_cast<std::size_t>(channels) * static_cast<std::size_t>(frames) *
               static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
    }
};

struct DenoisingOptions {
    format::Quantization quantization;
    InputTransforms transforms;  ///< of the quantised linears
    LoraRanks lora_ranks;        ///< of adapters on them
    LatentShape latent;          ///< height and width are multiples of the patch
    int branches = 1;            ///< 2 with classifier-free guidance: conditional, then not
    bool half = false;           ///< float weights stored as halves
    int layers = 0;              ///< 0: all of the network's (benchmarks run one)

    AttentionParameters attention;  ///< of the self-attention; dense by default
    std::vector<attention::StepKind> step_kinds = {attention::StepKind::dense};  ///< to be built
};

/// Something that the host writes before a phase runs.
struct NetworkInput {
    std::string name;  ///< "latent", "timestep", "context" …
    Tensor tensor;
    std::size_t most_values = 0;  ///< that it takes
    /// What is uploaded for the values given, for example the sinusoid of a timestep. Throws
    /// Error(invalid_argument) where they don't suit the network. Empty: the values themselves.
    std::function<std::vector<float>(std::span<const float>)> encode;
};

/// Appends its operations to a Program on construction and keeps the handles the host needs. Not
/// for several threads at once.
class DenoisingNetwork {
  public:
    virtual ~DenoisingNetwork() = default;

    const std::vector<NetworkInput>& inputs() const { return inputs_; }
    /// Throws Error(unsupported) naming an input that the network doesn't have.
    void write(program::Executor& executor, std::string_view input,
               std::span<const float> values) const;

    /// Once per prompt and branch, after the inputs that change with it.
    virtual std::uint32_t prompt_phase(int branch) const = 0;
    /// One forward pass of the branch, after the inputs that change per step. Throws
    /// std::out_of_range for a kind of step that was not asked for.
    virtual std::uint32_t step_phase(
        int branch, attention::StepKind kind = attention::StepKind::dense) const = 0;
    /// fp32, shaped as the latent, with the network's output channels.
    virtual Tensor prediction(int branch) const = 0;

    /// Before the first step of a clip: forgets residuals, types and non-finite values.
    virtual void reset(program::Executor& executor) const = 0;
    /// Where values first stopped being finite since reset(), for example "block 3, after
    /// self-attention"; empty when they didn't.
    virtual std::string non_finite_site(const program::Executor& executor) const = 0;
    /// Of SSAR; nullptr without.
    virtual const attention::ResidualState* residuals() const = 0;
    /// Of each head of a layer what MaskMode::topk last chose; empty where nothing is chosen.
    virtual std::vector<double> chosen_densities(const program::Executor& executor,
                                                 int layer) const = 0;
    virtual const WeightSet& weights() const = 0;
    virtual int tokens() const = 0;

  protected:
    std::vector<NetworkInput> inputs_;
};

}  // namespace quantsparse::models
