#include "values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "quantsparse/error.hpp"

namespace quantsparse::video {

std::vector<double> parse_numbers(const std::string& text, const std::string& field) {
    std::vector<double> numbers;
    for (std::size_t from = 0; from <= text.size();) {
        const std::size_t comma = std::min(text.find(',', from), text.size());
        const std::size_t first = std::min(text.find_first_not_of(' ', from), comma);
        double value = 0;
        const auto result = std::from_chars(text.data() + first, text.data() + comma, value);
        if (result.ec != std::errc() || result.ptr != text.data() + comma ||
            !std::isfinite(value)) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("'{}': write numbers with commas between them", text), field);
        }
        numbers.push_back(value);
        from = comma + 1;
    }
    return numbers;
}

std::vector<int> parse_steps(const std::string& text, const std::string& field) {
    constexpr double kLast = 999;
    std::vector<int> steps;
    for (const double number : parse_numbers(text, field)) {
        if (!(number >= 0 && number <= kLast && number == std::floor(number))) {
            throw Error(
                ErrorCode::invalid_argument,
                fmt::format("'{}' makes no sense: write steps, whole numbers from 0 to {}, for "
                            "example 0,4",
                            text, kLast),
                field);
        }
        steps.push_back(static_cast<int>(number));
    }
    return steps;
}

std::optional<int> parse_refreshes(const std::string& text) {
    constexpr std::string_view kAuto = "auto", kNumber = "auto=";
    if (text == kAuto) return std::nullopt;
    int count = 0;
    const char* end = text.data() + text.size();
    const char* begin = text.starts_with(kNumber) ? text.data() + kNumber.size() : end;
    const auto result = std::from_chars(begin, end, count);
    if (result.ec != std::errc() || result.ptr != end || count < 1) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}' says no number of refreshes: write auto, or for example "
                                "auto=3",
                                text),
                    "refreshes");
    }
    return count;
}

FrameRate parse_frame_rate(const std::string& text) {
    const auto number = [](std::string_view part, auto& value) {
        const auto result = std::from_chars(part.data(), part.data() + part.size(), value);
        return result.ec == std::errc() && result.ptr == part.data() + part.size();
    };
    constexpr double kSlowest = 0.01, kFastest = 1000;  // a gif's delays have 16 bits
    constexpr long kLargest = 1'000'000;                // both fit in the fields of every format
    FrameRate rate{0, 1};
    bool valid = false;
    if (const std::size_t slash = text.find('/'); slash != std::string::npos) {
        const std::string_view whole(text);
        valid = number(whole.substr(0, slash), rate.numerator) &&
                number(whole.substr(slash + 1), rate.denominator) && rate.numerator <= kLargest &&
                rate.denominator > 0 && rate.denominator <= kLargest;
    } else if (double value = 0; number(text, value) && value >= 0 && value <= kFastest) {
        rate = frame_rate(value);
        valid = true;
    }
    if (!valid || rate.per_second() < kSlowest || rate.per_second() > kFastest) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}' makes no sense: write for example 24 or 24000/1001, {} to {}",
                                text, kSlowest, kFastest),
                    "fps");
    }
    return rate;
}

}  // namespace quantsparse::video
