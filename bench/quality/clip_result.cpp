#include "quality/clip_result.hpp"

namespace quantsparse::bench {

Json to_json(const ClipResult& r) {
    return {{"psnr", r.psnr},       {"ssim", r.ssim},     {"gmsd", r.gmsd},
            {"seconds", r.seconds}, {"colour", r.colour}, {"background", r.background},
            {"shape", r.shape},     {"motion", r.motion}};
}

ClipResult clip_result_of(const Json& json) {
    ClipResult r;
    r.psnr = json.at("psnr").get<double>();
    r.ssim = json.at("ssim").get<double>();
    r.gmsd = json.at("gmsd").get<double>();
    r.seconds = json.at("seconds").get<double>();
    r.colour = json.at("colour").get<bool>();
    r.background = json.at("background").get<bool>();
    r.shape = json.at("shape").get<bool>();
    r.motion = json.at("motion").get<bool>();
    return r;
}

}  // namespace quantsparse::bench
