// The inputs blocks are reconstructed on: states before the first block, taken from the clips the
// model generates, and moved on from block to block (method 3.2).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "calib/options.hpp"
#include "calib/transformer.hpp"

namespace quantsparse::calib {

/// Which input of which clip: branch 0 is the prompt, 1 the empty one.
struct SampleChoice {
    int clip = 0;
    int step = 0;
    int branch = 0;
    bool operator==(const SampleChoice&) const = default;
};

/// `count` training samples in pairs of both branches: the first two and the last two steps always,
/// the rest evenly over the step's index, clips in turn. Then `held_out` more, of clips that
/// training does not see at that step where there are any.
std::vector<SampleChoice> choose_samples(int count, int held_out, int steps, int clips);

/// All samples before some block: the training ones first, then those held out. Training states
/// that nothing reads behind block 0 are undefined there.
struct SampleSet {
    std::vector<BlockState> states;     ///< of the floating-point model
    std::vector<at::Tensor> quantized;  ///< x of the same samples in the quantised model
    std::vector<float> drift;           ///< DriftRecorder::curve() of the first clip
    std::size_t training = 0;

    void save(const std::filesystem::path& path, const std::string& fingerprint) const;
    /// Before block 0. Nothing when the file is missing, unreadable, or of another calibration.
    static std::optional<SampleSet> load(const std::filesystem::path& path,
                                         const std::string& fingerprint);
};

}  // namespace quantsparse::calib
