// What a calibration does to a block, and the presets that name the combinations.
#pragma once

#include <optional>
#include <span>
#include <string>

namespace quantsparse::calib {

/// Of weights: to the nearest code; GPTQ as published; GPTQ for guided inputs, then coordinate
/// descent (method 2.6).
enum class Rounding { nearest, gptq, refined };
enum class Rotation { none, hadamard, learned };
enum class ChannelScale { none, smooth, search, learned, salient };
/// Of an input: divided by c, then rotated, or the other way round with c in the rotated basis.
enum class TransformOrder { scale_rotate, rotate_scale };
enum class Distillation { none, global, local, msad };
enum class Saliency { salient, random };
enum class BlockInputs { fp, quantized };
/// Which inputs are learned from: spread over the steps, those that count most, or all kinds.
enum class SampleSelection { spread, salient, diverse };
enum class CalibAttention { dense, sparse };

struct Method {
    Rounding rounding = Rounding::nearest;
    Rotation rotation = Rotation::hadamard;
    ChannelScale scale = ChannelScale::search;
    bool clip_search = true;        ///< gamma per output channel by squared error, else 1
    bool correct_bias = true;       ///< the mean output error goes into the bias
    bool learns = false;            ///< block-wise reconstruction by gradient descent
    bool clip_activations = false;  ///< a learned factor >= 0.7 on the activations' scale
    Distillation distill = Distillation::none;
    int low_rank = 0;            ///< rank of a learned addition to the weight, folded into it
    int branch_rank = 0;         ///< of a product beside the codes, run with the model
    double salient_share = 0;    ///< of a weight's rows that get a one-bit residual in it
    bool temporal_loss = false;  ///< similarity of frames as a further loss (Q-VDiT)
    int rotation_block = 64;     ///< of learned rotations, unless LearningOptions say another
    TransformOrder order = TransformOrder::scale_rotate;
    SampleSelection selection = SampleSelection::spread;
    bool token_weights = false;         ///< the output's error counts by received attention
    float start_alpha = -1;             ///< of a channel scale that is learned; negative: searched
    bool two_sided_clip = false;        ///< learned factors on largest and least weight apart
    bool plain_loss = false;            ///< of learning; else divided by its own value
    double rate = 5e-3;                 ///< as LearningOptions, unless those say another
    double quantizer_rate = 5e-2;       ///< as LearningOptions, unless those say another
    std::optional<BlockInputs> inputs;  ///< as LearningOptions, unless those say another
};

/// What the command line changes of a preset.
struct MethodOverrides {
    std::optional<Rounding> rounding;
    std::optional<Rotation> rotation;
    std::optional<ChannelScale> scale;
    std::optional<Distillation> distill;
    std::optional<bool> correct_bias;
    std::optional<bool> clip_activations;
};

/// Settings of block-wise reconstruction (method 3.1, 10.12, 10.29).
struct LearningOptions {
    int epochs = 15;
    std::optional<double> rate;            ///< of channel scale and rotation; none: the preset's
    std::optional<double> quantizer_rate;  ///< of clipping; none: the preset's
    int rotation_block = 0;                ///< 0: the preset's
    int stride = 0;                        ///< of pooling; 0: about 128 pooled tokens
    int salient_count = 0;                 ///< 0: 1.5 % of the tokens
    double lambda_global = -1;  ///< negative: balanced against the output error at the start
    double lambda_local = -1;
    double balance = 1.0;  ///< the ratio that is balanced to
    Saliency saliency = Saliency::salient;
    /// What a block reads while it learns or is rounded; none: the preset's, else quantised while
    /// it learns and fp where nothing is learned.
    std::optional<BlockInputs> inputs;
    CalibAttention attention = CalibAttention::dense;
    double density = 0.25;  ///< of sparse attention
};

struct Preset {
    const char* name;
    const char* summary;  ///< for --help: what it does, where it comes from, what is left out
    Method method;
};
std::span<const Preset> presets();

/// Throws Error(invalid_argument) naming the presets for an unknown name.
Method method_of(const std::string& preset, const MethodOverrides& overrides, int activation_bits);

const char* name_of(Rounding rounding);
const char* name_of(Rotation rotation);
const char* name_of(ChannelScale scale);
const char* name_of(Distillation distillation);

}  // namespace quantsparse::calib
