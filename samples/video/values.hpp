// Values of options that are more than a number or a word.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "frame_rate.hpp"

namespace quantsparse::video {

/// "1,0.9375,0.8333": one number or more. Throws Error(invalid_argument) that names `field`.
std::vector<double> parse_numbers(const std::string& text, const std::string& field);

/// "0,4": whole numbers from 0 to 999. Throws as above.
std::vector<int> parse_steps(const std::string& text, const std::string& field);

/// "auto": nothing, "auto=3": 3. Throws Error(invalid_argument).
std::optional<int> parse_refreshes(const std::string& text);

/// "24", "23.976" or "24000/1001", from 0.01 to 1000. Throws Error(invalid_argument).
FrameRate parse_frame_rate(const std::string& text);

}  // namespace quantsparse::video
