// The link between a checkpoint's tensors and a Program's constants.
//
// A model declares what it needs while it builds its Program; the values travel after the Executor
// has allocated the plan, so a plan can be printed without reading a single weight.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "format/model_bundle.hpp"
#include "kernels/pictures.hpp"
#include "kernels/quantized_matmul.hpp"
#include "program/executor.hpp"

namespace quantsparse::models {

using kernels::Matrix;
using kernels::Program;
using kernels::Tensor;
using program::Between;

/// Where values come from: a checkpoint, or (nullptr) pseudo-random numbers of a sensible size for
/// benchmarks of real shapes.
struct WeightSource {
    const format::Checkpoint* checkpoint = nullptr;
    int layer = 0;  ///< replaces "{}" in names: streamed models upload layer after layer
};

/// What is done to the inputs of quantised linears, everywhere alike.
struct InputTransforms {
    bool scaled = false;   ///< `<name>.channel_scale`
    bool rotated = false;  ///< `<name>.rotation_signs` and a block Hadamard, where not learned
    bool clipped = false;  ///< `<name>.activation_clip`
    /// Block of the learned rotation `<name>.rotation` by input width.
    std::map<int, int> learned_rotations;
};

/// As the model file has them; open_model() has checked that all its blocks agree. Nothing for a
/// component without weights.
InputTransforms input_transforms_of(const format::Component& transformer);

/// Ranks of the low-rank matrices that adapters have put beside quantised linears
/// (format/adapter_merge.hpp), by the linears' full names.
using LoraRanks = std::map<std::string, int>;
LoraRanks lora_ranks_of(const format::Component& transformer);

class WeightSet {
  public:
    /// `half`: float matrices are kept as halves on the device.
    WeightSet(Program& program, bool half) : program_(program), half_(half) {}

    /// A linear `<name>.weight` [n, k] with optional `<name>.bias`. `row_groups` > 1: the output is
    /// that many vectors of n / row_groups, each padded to a multiple of 4 (modulation vectors).
    kernels::FloatWeight linear(const std::string& name, int n, int k, bool bias,
                                int row_groups = 1);
    /// The same, kept in fp32 whatever the others are.
    kernels::FloatWeight full_linear(const std::string& name, int n, int k);
    kernels::QuantizedWeight quantized(const std::string& name, int n, int k, int bits, bool bias);
    /// `down` of linears that read the same rows, one below the other; each rank is rounded up
    /// to 4.
    kernels::FloatWeight lora_down(const std::vector<std::pair<std::string, int>>& ranks, int k);
    /// `up` [n, rank] in columns `first` on of [n, columns], zeros beside them.
    kernels::FloatWeight lora_up(const std::string& name, int n, int rank, int first, int columns);
    /// Channel scale, rotation and clipping of `<name>`'s input, as far as the file has them.
    /// `hadamard`: LinearBits::hadamard.
    kernels::InputTransform input_transform(const std::string& name, int k,
                                            const InputTransforms& kinds, int hadamard);
    /// fp32 vector of `count`, as `groups` vectors each padded to a multiple of 4.
    Tensor vector(const std::string& name, int count, int groups = 1);
    kernels::ConvWeight convolution(const std::string& name, int out_channels, int in_channels,
                                    int kernel_t, int kernel_y, int kernel_x);
    /// Values made by `make` from the checkpoint (nullptr for a benchmark).
    Tensor computed(const std::string& name, int floats,
                    std::function<std::vector<float>(const WeightSource&)> make);
    /// Several vectors of `count` floats each, concatenated and padded to multiples of 4.
    Tensor concatenated(const std::vector<std::string>& names, int count, int groups);

    /// False when `between` cancelled.
    bool upload(program::Executor& executor, const WeightSource& source,
                const Between& between = {}) const;

    Program& program() { return program_; }

  private:
    kernels::FloatWeight float_linear(const std::string& name, int n, int k, bool bias,
                                      int row_groups, bool half);

    using Upload = std::function<void(program::Executor&, const WeightSource&)>;

    Program& program_;
    bool half_;
    std::vector<Upload> uploads_;
};

/// Values of `name` ("{}" replaced), checked against the shape's element count, as fp32.
std::vector<float> load_values(const WeightSource& source, const std::string& name,
                               const std::vector<std::int64_t>& shape);

/// A linear of a transformer, quantised or not, behind one call.
struct Linear {
    std::string name;
    int n = 0;
    int k = 0;
    std::optional<kernels::QuantizedWeight> quantized;
    kernels::FloatWeight weight;
    kernels::InputTransform transform;
    int activation_bits = 8;
    /// Of adapters on a quantised group: what the float input is multiplied by, all linears' alike,
    /// and what becomes of the product (whose rows prepare_input() makes).
    std::optional<kernels::FloatWeight> lora_down;
    kernels::LoraProduct lora;
};

/// Declares the linears of a transformer's blocks as a model keeps them.
class BlockLinears {
  public:
    BlockLinears(WeightSet& weights, const format::Quantization& quantization,
                 const InputTransforms& transforms, const LoraRanks& lora_ranks = {})
        : weights_(weights),
          quantization_(quantization),
          transforms_(transforms),
          lora_ranks_(lora_ranks) {}

    /// Those of a group, in the description's order; they share the first one's input transform.
    std::vector<Linear> declare(const format::NetworkBlock& block, std::string_view group);

  private:
    void declare_lora(std::vector<Linear>& linears);

    WeightSet& weights_;
    format::Quantization quantization_;
    InputTransforms transforms_;
    LoraRanks lora_ranks_;
};

/// The input of one or several linears: quantised once when they are, and multiplied by `down`.
struct LinearInput {
    Matrix matrix;
    std::optional<kernels::QuantizedRows> rows;
    std::optional<Matrix> lora;
};
LinearInput prepare_input(Program& program, const Linear& linear, const Matrix& input);
void apply(Program& program, const std::string& name, const Linear& linear,
           const LinearInput& input, const Matrix& out, const kernels::Epilogue& epilogue = {});

}  // namespace quantsparse::models
