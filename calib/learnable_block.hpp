// A block whose quantisation is learned: channel scale and rotation per group of linears, clipping
// per output channel, each with the parametrisation that keeps it valid (method 2.3 to 2.5).
// The weights themselves are not trained.
#pragma once

#include <optional>
#include <vector>

#include "calib/adamw.hpp"
#include "calib/gptq.hpp"
#include "calib/options.hpp"
#include "calib/quantize_block.hpp"
#include "calib/transformer.hpp"

namespace quantsparse::calib {

class LearnableBlock {
  public:
    /// Starts from `start`, what quantize_block() found for the same options. `weights` must
    /// outlive the object.
    LearnableBlock(const BlockWeights& weights, const std::vector<QuantizedLinear>& start,
                   const Method& method, const CalibrationOptions& options);

    std::vector<ParameterGroup> parameters() const;
    /// Makes rotations and quantised weights from the parameters; to be called after each change of
    /// them, with or without gradients as they are wanted.
    void refresh();
    /// Outputs of the group's linears, as BlockMethods asks for.
    std::vector<at::Tensor> project(std::string_view group, const at::Tensor& rows) const;
    /// Puts the mean output error on the kept rows into the biases (method.correct_bias).
    void correct_biases(int block, const CollectedActivations& activations);

    /// Copies of everything that is learned, and back.
    std::vector<at::Tensor> snapshot() const;
    void restore(const std::vector<at::Tensor>& values);

    /// The linears as they are stored: rotations made orthogonal in fp64, the weights folded there,
    /// then rounded, and the biases corrected once more. `hessians` as for quantize_block().
    std::vector<QuantizedLinear> fold(int block, const CollectedActivations& activations,
                                      const BlockHessians& hessians);

  private:
    struct LearnableLinear {
        std::string name;  ///< with its block
        at::Tensor weight, bias;
        at::Tensor gamma_logit;   ///< [n]; gamma = sigmoid
        at::Tensor low_logit;     ///< [n]; of the least weight, gamma then of the largest; or none
        at::Tensor low_a, low_b;  ///< [r, k], [n, r]; the weight is W + low_b low_a
        at::Tensor branch_down, branch_up;  ///< [r, k], [n, r]: beside the codes
        at::Tensor shift;                   ///< correction of the bias
        at::Tensor quantized;               ///< made by refresh()
        float alpha = -1;                   ///< of the start, for the report
    };
    struct LearnableGroup {
        std::string name;
        format::LinearBits bits;
        bool once_per_prompt = false;
        bool rotate_first = false;  ///< c is in the rotated basis
        at::Tensor log_scale;       ///< [k]
        at::Tensor start_rotation;  ///< [k / b, b, b]; undefined: none
        at::Tensor skew;            ///< T of the Cayley transform
        at::Tensor clip_logit;      ///< scalar; undefined: no clipping
        std::vector<float> signs;   ///< of the start, stored where the rotation is not learned
        std::vector<LearnableLinear> linears;
        at::Tensor scale, rotation, clip;  ///< made by refresh()
    };

    LearnableGroup make_group(const format::LinearGroup& described,
                              const std::vector<QuantizedLinear>& start, std::size_t first) const;
    LearnableLinear make_linear(const std::string& short_name, const QuantizedLinear& start,
                                const LearnableGroup& group) const;
    /// Codes and scales; makes source.quantized what they stand for.
    QuantizedLinear fold_linear(LearnableLinear& source, const LearnableGroup& group,
                                const at::Tensor& scale, const at::Tensor& rotation,
                                const std::optional<ErrorFeedback>& feedback) const;
    /// Rows or weights in the basis that is quantised, by that scale and rotation.
    static at::Tensor input_in_basis(const LearnableGroup& group, const at::Tensor& rows);
    static at::Tensor weight_in_basis(const LearnableGroup& group, const at::Tensor& weight,
                                      const at::Tensor& scale, const at::Tensor& rotation);
    /// Clipped to the learned ends where there are two, and the gamma that is left to the
    /// quantiser.
    static std::pair<at::Tensor, at::Tensor> clipped(const LearnableLinear& linear,
                                                     const at::Tensor& transformed);
    static at::Tensor effective_weight(const LearnableLinear& linear);
    std::vector<at::Tensor> learned() const;

    const BlockWeights& weights_;
    Method method_;
    CalibrationOptions options_;
    std::vector<LearnableGroup> groups_;
};

}  // namespace quantsparse::calib
