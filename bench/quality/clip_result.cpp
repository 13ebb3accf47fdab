#include "quality/clip_result.hpp"

namespace quantsparse::bench {

Json to_json(const ClipResult& r) {
    Json json{{"psnr", r.psnr}, {"ssim", r.ssim}, {"gmsd", r.gmsd}, {"seconds", r.seconds}};
    if (r.followed) {
        json["colour"] = r.followed->colour;
        json["background"] = r.followed->background;
        json["shape"] = r.followed->shape;
        json["motion"] = r.followed->motion;
    }
    return json;
}

ClipResult clip_result_of(const Json& json) {
    ClipResult r;
    r.psnr = json.at("psnr").get<double>();
    r.ssim = json.at("ssim").get<double>();
    r.gmsd = json.at("gmsd").get<double>();
    r.seconds = json.at("seconds").get<double>();
    if (json.contains("colour")) {
        r.followed = {{json.at("colour").get<bool>(), json.at("background").get<bool>(),
                       json.at("shape").get<bool>(), json.at("motion").get<bool>()}};
    }
    return r;
}

}  // namespace quantsparse::bench
