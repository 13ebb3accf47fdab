#include "picture_metrics.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace quantsparse::video {
namespace {

/// One channel of values in 0..255.
struct Plane {
    int width = 0;
    int height = 0;
    std::vector<double> values;

    Plane(int width_in, int height_in)
        : width(width_in),
          height(height_in),
          values(static_cast<std::size_t>(width_in) * static_cast<std::size_t>(height_in)) {}
    double& at(int x, int y) {
        return values[static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
                      static_cast<std::size_t>(x)];
    }
    double at(int x, int y) const { return const_cast<Plane*>(this)->at(x, y); }
};

Plane luma(const PictureView& picture) {
    Plane plane(picture.width, picture.height);
    for (std::size_t i = 0; i < plane.values.size(); ++i) {
        plane.values[i] = 0.299 * picture.rgb[3 * i] + 0.587 * picture.rgb[3 * i + 1] +
                          0.114 * picture.rgb[3 * i + 2];
    }
    return plane;
}

Plane product(const Plane& a, const Plane& b) {
    Plane out = a;
    for (std::size_t i = 0; i < out.values.size(); ++i) out.values[i] *= b.values[i];
    return out;
}

/// Gaussian window means at every place where the whole window fits.
class GaussianWindow {
  public:
    GaussianWindow(int width, int height)
        : size_x_(std::min(kSize, width)), size_y_(std::min(kSize, height)) {
        fill(weights_x_, size_x_);
        fill(weights_y_, size_y_);
    }

    Plane mean(const Plane& in) const {
        Plane rows(in.width - size_x_ + 1, in.height);
        for (int y = 0; y < rows.height; ++y) {
            for (int x = 0; x < rows.width; ++x) {
                double sum = 0;
                for (int i = 0; i < size_x_; ++i) sum += weights_x_[index(i)] * in.at(x + i, y);
                rows.at(x, y) = sum;
            }
        }
        Plane out(rows.width, in.height - size_y_ + 1);
        for (int y = 0; y < out.height; ++y) {
            for (int x = 0; x < out.width; ++x) {
                double sum = 0;
                for (int i = 0; i < size_y_; ++i) sum += weights_y_[index(i)] * rows.at(x, y + i);
                out.at(x, y) = sum;
            }
        }
        return out;
    }

  private:
    static constexpr int kSize = 11;
    static constexpr double kDeviation = 1.5;
    static std::size_t index(int i) { return static_cast<std::size_t>(i); }

    static void fill(std::array<double, kSize>& weights, int size) {
        double sum = 0;
        for (int i = 0; i < size; ++i) {
            const double x = (i - (size - 1) / 2.0) / kDeviation;
            weights[index(i)] = std::exp(-0.5 * x * x);
            sum += weights[index(i)];
        }
        for (int i = 0; i < size; ++i) weights[index(i)] /= sum;
    }

    int size_x_, size_y_;
    std::array<double, kSize> weights_x_{}, weights_y_{};
};

/// Magnitude of the Prewitt gradient of the plane halved in both directions; borders repeat.
Plane gradient_of_half(const Plane& in) {
    Plane half(std::max(1, in.width / 2), std::max(1, in.height / 2));
    for (int y = 0; y < half.height; ++y) {
        for (int x = 0; x < half.width; ++x) {
            const int x1 = std::min(2 * x + 1, in.width - 1),
                      y1 = std::min(2 * y + 1, in.height - 1);
            half.at(x, y) =
                (in.at(2 * x, 2 * y) + in.at(x1, 2 * y) + in.at(2 * x, y1) + in.at(x1, y1)) / 4;
        }
    }
    Plane out(half.width, half.height);
    const auto value = [&](int x, int y) {
        return half.at(std::clamp(x, 0, half.width - 1), std::clamp(y, 0, half.height - 1));
    };
    for (int y = 0; y < half.height; ++y) {
        for (int x = 0; x < half.width; ++x) {
            double dx = 0, dy = 0;
            for (int i = -1; i <= 1; ++i) {
                dx += value(x + 1, y + i) - value(x - 1, y + i);
                dy += value(x + i, y + 1) - value(x + i, y - 1);
            }
            out.at(x, y) = std::sqrt(dx * dx + dy * dy) / 3;
        }
    }
    return out;
}

}  // namespace

double squared_difference(const PictureView& a, const PictureView& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.rgb.size(); ++i) {
        const int difference = int{a.rgb[i]} - int{b.rgb[i]};
        sum += difference * difference;
    }
    return sum;
}

double psnr(double squared_error, double values) {
    return squared_error == 0 ? std::numeric_limits<double>::infinity()
                              : 10 * std::log10(255.0 * 255.0 * values / squared_error);
}

double structural_similarity(const PictureView& a, const PictureView& b) {
    constexpr double kC1 = 0.01 * 255 * 0.01 * 255, kC2 = 0.03 * 255 * 0.03 * 255;
    const Plane x = luma(a), y = luma(b);
    const GaussianWindow window(a.width, a.height);
    const Plane mean_x = window.mean(x), mean_y = window.mean(y);
    const Plane xx = window.mean(product(x, x)), yy = window.mean(product(y, y));
    const Plane xy = window.mean(product(x, y));
    double sum = 0;
    for (std::size_t i = 0; i < mean_x.values.size(); ++i) {
        const double mx = mean_x.values[i], my = mean_y.values[i];
        const double covariance = xy.values[i] - mx * my;
        const double variances = xx.values[i] - mx * mx + yy.values[i] - my * my;
        sum += (2 * mx * my + kC1) * (2 * covariance + kC2) /
               ((mx * mx + my * my + kC1) * (variances + kC2));
    }
    return sum / static_cast<double>(mean_x.values.size());
}

double gradient_deviation(const PictureView& a, const PictureView& b) {
    constexpr double kC = 170;
    const Plane x = gradient_of_half(luma(a)), y = gradient_of_half(luma(b));
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < x.values.size(); ++i) {
        const double gx = x.values[i], gy = y.values[i];
        const double similarity = (2 * gx * gy + kC) / (gx * gx + gy * gy + kC);
        sum += similarity;
        squares += similarity * similarity;
    }
    const double count = static_cast<double>(x.values.size());
    return std::sqrt(std::max(0.0, squares / count - sum / count * (sum / count)));
}

}  // namespace quantsparse::video
