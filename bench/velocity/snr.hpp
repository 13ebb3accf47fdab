// How far one vector is from another, and what a row's distances say together.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace quantsparse::bench {

/// What a group of rows is measured by.
enum class Measure {
    levels,   ///< predictions at a few noise levels of the reference's run; rows without memory
    path,     ///< predictions at all of its steps, each with what the row keeps from step to step
    latents,  ///< the row runs by itself: its final latents
};

/// "": levels. Throws Error(bad_file) for other words.
Measure measure_of(const std::string& word);
const char* word_of(Measure measure);

/// ||a - reference||^2 / ||reference||^2.
double relative_error(std::span<const float> a, std::span<const float> reference);

/// -10 log10 of a relative error; at most 120, which is below what fp32 can tell.
double decibels(double relative_error);

/// One figure of a prompt: the mean of the decibels over levels. Over a path the errors are
/// averaged before the logarithm, since a refresh has none.
double signal_to_noise(Measure measure, const std::vector<double>& errors);

/// `count` of `steps` steps, in the middle of as many equal parts; all where there are fewer.
std::vector<int> level_steps(int steps, int count);

}  // namespace quantsparse::bench
