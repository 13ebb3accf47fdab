#include "quality/shape_checker.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <map>
#include <numbers>
#include <sstream>
#include <vector>

namespace quantsparse::bench {
namespace {

using std::numbers::pi;
using Colour = std::array<double, 3>;

constexpr double kThreshold = 0.18;  // difference from the background, in any channel
constexpr double kTravel = 0.09;     // of the width
constexpr double kLogArea = 0.7;
constexpr double kTurn = 0.6;  // rad

const std::array<const char*, 4> kShapes = {"circle", "square", "triangle", "star"};
const std::array<int, 3> kOrders = {3, 4, 5};  // symmetry of triangle, square, star
const std::map<std::string, Colour> kColours = {
    {"red", {0.88, 0.14, 0.14}},    {"green", {0.14, 0.70, 0.22}},  {"blue", {0.20, 0.38, 0.96}},
    {"yellow", {0.96, 0.84, 0.12}}, {"purple", {0.64, 0.20, 0.78}}, {"cyan", {0.16, 0.82, 0.88}}};
const std::array<const char*, 8> kBackgrounds = {
    "black", "white", "gray", "navy", "gray gradient", "blue gradient", "stripes", "checks"};

double sign(double x) {
    return (x > 0) - (x < 0);
}

/// The background's colour at x, y in 0..1.
Colour background_at(const std::string& name, double x, double y) {
    if (name == "black") return {0.04, 0.04, 0.04};
    if (name == "white") return {0.96, 0.96, 0.96};
    if (name == "gray") return {0.5, 0.5, 0.5};
    if (name == "navy") return {0.05, 0.07, 0.3};
    if (name == "blue gradient") {
        return {(0.1 + y) * 0.15 + 0.02, (0.1 + y) * 0.2 + 0.03, (0.1 + y) * 0.6 + 0.1};
    }
    double gray = 0.3 + 0.4 * y;  // gray gradient
    if (name == "stripes") gray = 0.5 + 0.05 * sign(std::sin(2 * pi * 4 * x));
    if (name == "checks") {
        gray = 0.5 + 0.05 * sign(std::sin(2 * pi * 3 * x) * std::sin(2 * pi * 3 * y));
    }
    return {gray, gray, gray};
}

/// The value below which `share` of the values lie, interpolated; reorders them.
double quantile(std::vector<double>& values, double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(below);
    std::nth_element(values.begin(), middle, values.end());
    const double low = *middle;
    if (below + 1 >= values.size()) return low;
    const double high = *std::min_element(middle + 1, values.end());
    return low + (place - static_cast<double>(below)) * (high - low);
}

double median(std::vector<double> values) {
    return quantile(values, 0.5);
}

struct Mask {
    int height = 0;
    int width = 0;
    std::vector<char> set;

    Mask(int h, int w)
        : height(h), width(w), set(static_cast<std::size_t>(h) * static_cast<std::size_t>(w)) {}
    std::size_t index(int y, int x) const {
        return static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
               static_cast<std::size_t>(x);
    }
    bool at(int y, int x) const {
        return y >= 0 && x >= 0 && y < height && x < width && set[index(y, x)];
    }
    int neighbours(int y, int x) const {  // in the 3 x 3 cells around
        int count = 0;
        for (int dy = -1; dy <= 1; ++dy) {
            for (int dx = -1; dx <= 1; ++dx) count += at(y + dy, x + dx);
        }
        return count;
    }
    double share() const {
        return static_cast<double>(std::count(set.begin(), set.end(), 1)) /
               static_cast<double>(set.size());
    }
};

/// What the outline of one frame's shape is like, whatever its place, size and turn.
struct Moments {
    double centre_x = 0, centre_y = 0;  ///< as parts of the picture
    double area = 0;                    ///< likewise
    std::array<double, 5> features{};   ///< second moment, 98 % radius, angular moments 3, 4, 5
    std::array<double, 3> phases{};     ///< of the angular moments
};

Moments moments_of(const Mask& mask) {
    std::vector<std::pair<double, double>> points;
    double sum_x = 0, sum_y = 0;
    for (int y = 0; y < mask.height; ++y) {
        for (int x = 0; x < mask.width; ++x) {
            if (!mask.at(y, x)) continue;
            points.emplace_back(x, y);
            sum_x += x;
            sum_y += y;
        }
    }
    const double area = static_cast<double>(points.size());
    const double cx = sum_x / area, cy = sum_y / area;
    std::vector<double> radii;
    std::array<std::complex<double>, 3> angular{};
    double second = 0, weights = 0;
    for (const auto& [x, y] : points) {
        const double dx = x - cx, dy = y - cy;
        const double q2 = (dx * dx + dy * dy) * pi / area;
        const double angle = std::atan2(dy, dx);
        second += q2;
        weights += q2 * q2;
        radii.push_back(std::sqrt(q2));
        for (std::size_t k = 0; k < 3; ++k) {
            angular[k] += q2 * q2 * std::polar(1.0, kOrders[k] * angle);
        }
    }
    Moments m;
    m.centre_x = (cx + 0.5) / mask.width;
    m.centre_y = (cy + 0.5) / mask.height;
    m.area = area / static_cast<double>(mask.set.size());
    m.features = {second / area, quantile(radii, 0.98)};
    for (std::size_t k = 0; k < 3; ++k) {
        m.features[k + 2] = std::abs(angular[k]) / std::max(weights, 1e-300);
        m.phases[k] = std::arg(angular[k]);
    }
    return m;
}

/// Signed distance to the edge of a shape at the origin, negative inside.
double distance_to(const std::string& shape, double x, double y, double radius, double angle) {
    const double r = std::hypot(x, y);
    if (shape == "circle") return r - radius;
    const int n = shape == "square" ? 4 : shape == "triangle" ? 3 : 5;
    const double wedge = 2 * pi / n;
    double a = std::atan2(y, x) - angle;
    a = std::abs(a - wedge * std::nearbyint(a / wedge));  // 0 at a corner, pi / n between two
    if (shape != "star") return r * std::cos(a - pi / n) - radius * std::cos(pi / n);
    const double inner = 0.45 * radius;
    const double nx = inner * std::sin(pi / 5), ny = radius - inner * std::cos(pi / 5);
    return (r * std::cos(a) * nx + r * std::sin(a) * ny - radius * nx) / std::hypot(nx, ny);
}

struct ShapeCentres {
    std::array<std::array<double, 5>, 4> mean{};
    std::array<double, 5> spread{};
};

/// Features of the four shapes drawn at this picture size in several radii and turns.
ShapeCentres shape_centres(int size) {
    constexpr int kDrawn = 24;
    const std::map<std::string, double> area_factor = {
        {"circle", 1.0}, {"square", 1.2}, {"triangle", 1.35}, {"star", 1.35}};
    ShapeCentres centres;
    for (std::size_t s = 0; s < kShapes.size(); ++s) {
        for (int i = 0; i < kDrawn; ++i) {
            const double radius = (0.16 + 0.08 * (i + 0.5) / kDrawn) * area_factor.at(kShapes[s]);
            const double turn = 6.0 * ((i * 7) % kDrawn + 0.5) / kDrawn;
            Mask mask(size, size);
            for (int y = 0; y < size; ++y) {
                for (int x = 0; x < size; ++x) {
                    mask.set[mask.index(y, x)] =
                        distance_to(kShapes[s], x + 0.5 - size / 2.0, y + 0.5 - size / 2.0,
                                    radius * size, turn) < 0;
                }
            }
            const Moments m = moments_of(mask);
            for (std::size_t f = 0; f < 5; ++f) centres.mean[s][f] += m.features[f] / kDrawn;
        }
    }
    for (std::size_t f = 0; f < 5; ++f) {
        double mean = 0, squares = 0;
        for (const auto& shape : centres.mean) {
            mean += shape[f] / 4;
            squares += shape[f] * shape[f] / 4;
        }
        centres.spread[f] = std::sqrt(std::max(0.0, squares - mean * mean)) + 1e-6;
    }
    return centres;
}

/// Change of the fitted line over t = 0..1.
double slope(const std::vector<double>& t, const std::vector<double>& v) {
    double mean = 0;
    for (const double x : t) mean += x / static_cast<double>(t.size());
    double products = 0, squares = 0;
    for (std::size_t i = 0; i < t.size(); ++i) {
        products += (t[i] - mean) * v[i];
        squares += (t[i] - mean) * (t[i] - mean);
    }
    return products / squares;
}

/// The clip as numbers in 0..1 and what is not its background.
class Frames {
  public:
    Frames(std::span<const std::uint8_t> rgb, int frames, int height, int width)
        : rgb_(rgb), frames_(frames), height_(height), width_(width) {
        find_masks();
    }
    double value(int frame, int y, int x, int c) const {
        return rgb_[((static_cast<std::size_t>(frame) * static_cast<std::size_t>(height_) +
                      static_cast<std::size_t>(y)) *
                         static_cast<std::size_t>(width_) +
                     static_cast<std::size_t>(x)) *
                        3 +
                    static_cast<std::size_t>(c)] /
               255.0;
    }
    const std::vector<Mask>& shape() const { return shape_; }
    const std::vector<Mask>& core() const { return core_; }

    std::string background() const {
        std::string best = "-";
        double least = 0.1;  // above this it is none of them
        for (const char* name : kBackgrounds) {
            const double error = background_error(name);
            if (error < least) {
                least = error;
                best = name;
            }
        }
        return best;
    }

    /// Median colour of the shape's inside.
    Colour colour() const {
        Colour result{};
        for (int c = 0; c < 3; ++c) {
            std::vector<double> values;
            for (int f = 0; f < frames_; ++f) {
                for (int y = 0; y < height_; ++y) {
                    for (int x = 0; x < width_; ++x) {
                        if (core_[static_cast<std::size_t>(f)].at(y, x)) {
                            values.push_back(value(f, y, x, c));
                        }
                    }
                }
            }
            result[static_cast<std::size_t>(c)] = median(std::move(values));
        }
        return result;
    }

  private:
    void find_masks() {
        const int edge = std::max(width_ / 20, 1);
        std::vector<Mask> different(static_cast<std::size_t>(frames_), Mask(height_, width_));
        for (int y = 0; y < height_; ++y) {
            for (int c = 0; c < 3; ++c) {
                std::vector<double> sides;
                for (int f = 0; f < frames_; ++f) {
                    for (int x = 0; x < edge; ++x) {
                        sides.push_back(value(f, y, x, c));
                        sides.push_back(value(f, y, width_ - 1 - x, c));
                    }
                }
                const double back = median(std::move(sides));
                for (int f = 0; f < frames_; ++f) {
                    Mask& mask = different[static_cast<std::size_t>(f)];
                    for (int x = 0; x < width_; ++x) {
                        if (std::abs(value(f, y, x, c) - back) > kThreshold) {
                            mask.set[mask.index(y, x)] = 1;
                        }
                    }
                }
            }
        }
        for (const Mask& mask : different) {
            shape_.emplace_back(height_, width_);
            core_.emplace_back(height_, width_);
            for (int y = 0; y < height_; ++y) {
                for (int x = 0; x < width_; ++x) {
                    if (!mask.at(y, x)) continue;
                    const int count = mask.neighbours(y, x);
                    shape_.back().set[mask.index(y, x)] = count >= 5;
                    core_.back().set[mask.index(y, x)] = count == 9;
                }
            }
        }
    }

    /// Mean difference over all pixels that show the background in some frame.
    double background_error(const std::string& name) const {
        double sum = 0;
        int seen = 0;
        for (int y = 0; y < height_; ++y) {
            for (int x = 0; x < width_; ++x) {
                Colour mean{};
                int empty = 0;
                for (int f = 0; f < frames_; ++f) {
                    if (shape_[static_cast<std::size_t>(f)].at(y, x)) continue;
                    ++empty;
                    for (int c = 0; c < 3; ++c) {
                        mean[static_cast<std::size_t>(c)] += value(f, y, x, c);
                    }
                }
                if (empty == 0) continue;
                const Colour asked = background_at(name, (x + 0.5) / height_, (y + 0.5) / height_);
                for (std::size_t c = 0; c < 3; ++c) sum += std::abs(mean[c] / empty - asked[c]);
                ++seen;
            }
        }
        return seen == 0 ? 9.0 : sum / (3.0 * seen);
    }

    std::span<const std::uint8_t> rgb_;
    int frames_, height_, width_;
    std::vector<Mask> shape_, core_;
};

std::string nearest_colour(const Colour& colour) {
    std::string best;
    double least = 9;
    for (const auto& [name, asked] : kColours) {
        double distance = 0;
        for (std::size_t c = 0; c < 3; ++c) distance += std::abs(colour[c] - asked[c]);
        if (distance < least) {
            least = distance;
            best = name;
        }
    }
    return best;
}

std::size_t nearest_shape(const std::vector<Moments>& frames, int size) {
    std::array<double, 5> features{};
    for (std::size_t f = 0; f < 5; ++f) {
        std::vector<double> values;
        for (const Moments& m : frames) values.push_back(m.features[f]);
        features[f] = median(std::move(values));
    }
    const ShapeCentres centres = shape_centres(size);
    std::size_t best = 0;
    double least = 1e300;
    for (std::size_t s = 0; s < kShapes.size(); ++s) {
        double distance = 0;
        for (std::size_t f = 0; f < 5; ++f) {
            const double d = (centres.mean[s][f] - features[f]) / centres.spread[f];
            distance += d * d;
        }
        if (distance < least) {
            least = distance;
            best = s;
        }
    }
    return best;
}

std::string motion_of(const std::vector<double>& t, const std::vector<Moments>& frames,
                      std::size_t shape) {
    const auto slope_of = [&](auto&& read) {
        std::vector<double> values;
        for (const Moments& m : frames) values.push_back(read(m));
        return slope(t, values);
    };
    const double vx = slope_of([](const Moments& m) { return m.centre_x; }) / kTravel;
    const double vy = slope_of([](const Moments& m) { return m.centre_y; }) / kTravel;
    std::vector<std::pair<double, std::string>> scores = {
        {vx, "right"},
        {-vx, "left"},
        {vy, "down"},
        {-vy, "up"},
        {slope_of([](const Moments& m) { return std::log(m.area); }) / kLogArea, "grow"}};
    if (shape > 0) {  // a circle's turning can't be seen
        const std::size_t k = shape == 2 ? 0 : shape == 1 ? 1 : 2;
        double previous = frames.front().phases[k], turns = 0;
        const double phase = slope_of([&](const Moments& m) {
            turns += 2 * pi * std::nearbyint((previous - m.phases[k] - turns) / (2 * pi));
            const double unwrapped = m.phases[k] + turns;
            previous = unwrapped;
            return unwrapped / kOrders[k];
        });
        scores.emplace_back(std::abs(phase) / kTurn, "spin");
    }
    const auto best = *std::max_element(scores.begin(), scores.end());
    return best.first >= 1 ? best.second : "still";
}

}  // namespace

SceneWords words_of_prompt(const std::string& prompt) {
    const std::map<std::string, std::string> motions = {
        {"left", "left"}, {"right", "right"}, {"up", "up"},     {"rises", "up"},
        {"down", "down"}, {"sinks", "down"},  {"grows", "grow"}};
    SceneWords words;
    std::istringstream stream(prompt);
    for (std::string word; stream >> word;) {
        if (kColours.count(word)) words.colour = word;
        if (motions.count(word)) words.motion = motions.at(word);
        for (const char* shape : kShapes) {
            if (word == shape) words.shape = shape;
        }
        for (const char* background : kBackgrounds) {
            if (word == background) words.background = background;
        }
    }
    return words;
}

SceneWords check_clip(std::span<const std::uint8_t> rgb, int frames, int height, int width) {
    const Frames clip(rgb, frames, height, width);
    SceneWords words;
    words.background = clip.background();
    std::vector<double> t;
    std::vector<Moments> moments;
    bool has_core = false;
    for (int f = 0; f < frames; ++f) {
        const Mask& mask = clip.shape()[static_cast<std::size_t>(f)];
        has_core = has_core || clip.core()[static_cast<std::size_t>(f)].share() > 0;
        if (mask.share() <= 0.005) continue;
        t.push_back(static_cast<double>(f) / std::max(frames - 1, 1));
        moments.push_back(moments_of(mask));
    }
    if (static_cast<double>(t.size()) < 0.6 * frames || !has_core) return words;
    words.colour = nearest_colour(clip.colour());
    const std::size_t shape = nearest_shape(moments, height);
    words.shape = kShapes[shape];
    if (t.size() >= 2) words.motion = motion_of(t, moments, shape);
    return words;
}

}  // namespace quantsparse::bench
