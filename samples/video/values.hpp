// Values of options that are more than a number or a word.
#pragma once

#include <string>
#include <vector>

#include "frame_rate.hpp"

namespace quantsparse::video {

/// "1,0.9375,0.8333": one number or more. Throws Error(invalid_argument) that names `field`.
std::vector<double> parse_numbers(const std::string& text, const std::string& field);

/// "24", "23.976" or "24000/1001", from 0.01 to 1000. Throws Error(invalid_argument).
FrameRate parse_frame_rate(const std::string& text);

}  // namespace quantsparse::video
