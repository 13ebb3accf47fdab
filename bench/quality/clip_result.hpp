// What `quality` measures of a clip.
#pragma once

#include "ordered_json.hpp"

namespace quantsparse::bench {

/// One clip against the reference clip of the same prompt and seed.
struct ClipResult {
    double psnr = 0;      ///< dB, mean over frames; a frame without any difference counts 99
    double ssim = 0;      ///< mean over frames
    double gmsd = 0;      ///< mean over frames
    double seconds = 0;   ///< of denoising
    bool colour = false;  ///< what the checker finds is what the prompt asks for
    bool background = false;
    bool shape = false;
    bool motion = false;
};

Json to_json(const ClipResult& result);
/// Throws Json::exception when something is missing.
ClipResult clip_result_of(const Json& json);

}  // namespace quantsparse::bench
