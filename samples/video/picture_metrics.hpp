// How far two pictures of one size lie apart: PSNR, structural similarity, gradient similarity.
// None of them needs learned features.
#pragma once

#include <cstdint>
#include <span>

namespace quantsparse::video {

/// RGB8 rows top to bottom: [height, width, 3].
struct PictureView {
    int width = 0;
    int height = 0;
    std::span<const std::uint8_t> rgb;
};

/// Sum of squared differences of all values, the mean's numerator in PSNR.
double squared_difference(const PictureView& a, const PictureView& b);

/// Peak signal-to-noise ratio of 8-bit values in dB; infinite without any difference.
double psnr(double squared_error, double values);

/// Structural similarity of the luma (Wang et al. 2004): 11x11 Gaussian windows of deviation 1.5,
/// K1 = 0.01, K2 = 0.03, mean over all whole windows; 1 for equal pictures. Pictures smaller than
/// the window are one window.
double structural_similarity(const PictureView& a, const PictureView& b);

/// Gradient magnitude similarity deviation of the luma (Xue et al. 2014), after averaging 2x2
/// pixels; 0 for equal pictures, larger is worse. It follows perceived quality closely and needs no
/// learned features.
double gradient_deviation(const PictureView& a, const PictureView& b);

}  // namespace quantsparse::video
