// What `quality` measures of a clip.
#pragma once

#include <optional>

#include "ordered_json.hpp"

namespace quantsparse::bench {

/// Whether the checker finds what the prompt asks for.
struct PromptFollowed {
    bool colour = false;
    bool background = false;
    bool shape = false;
    bool motion = false;

    bool all() const { return colour && background && shape && motion; }
};

/// One clip against the reference clip of the same prompt and seed.
struct ClipResult {
    double psnr = 0;     ///< dB, mean over frames; a frame without any difference counts 99
    double ssim = 0;     ///< mean over frames
    double gmsd = 0;     ///< mean over frames
    double seconds = 0;  ///< of denoising; machines are busy, so no report shows it
    std::optional<PromptFollowed> followed;  ///< nothing for prompts outside the checker's world
};

Json to_json(const ClipResult& result);
/// Throws Json::exception when something is missing.
ClipResult clip_result_of(const Json& json);

}  // namespace quantsparse::bench
