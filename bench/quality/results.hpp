// What measuring a quality table leaves: one line of JSON per clip, appended as clips are done, so
// that a stopped run goes on where it was.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace quantsparse::bench {

/// One clip against the reference clip of the same prompt and seed.
struct ClipResult {
    std::string row;  ///< QualityRow::identity(); "reference" for the reference itself
    int prompt = 0;
    double psnr = 0;      ///< dB, mean over frames; a frame without any difference counts 99
    double ssim = 0;      ///< mean over frames
    double gmsd = 0;      ///< mean over frames
    double seconds = 0;   ///< of denoising
    bool colour = false;  ///< what the checker finds is what the prompt asks for
    bool background = false;
    bool shape = false;
    bool motion = false;
};

class ResultsFile {
  public:
    /// `settings` names everything that all results depend on: a file with other settings is begun
    /// anew.
    ResultsFile(std::filesystem::path file, const std::string& settings);

    bool has(const std::string& row, int prompt) const;
    void add(const ClipResult& result);
    /// In order of prompts.
    std::vector<ClipResult> of(const std::string& row) const;

  private:
    std::filesystem::path file_;
    std::map<std::string, std::map<int, ClipResult>> results_;
};

struct Estimate {
    double mean = 0;
    double standard_error = 0;
    int count = 0;
};
Estimate estimate(const std::vector<double>& values);
/// Of the differences a - b, paired by prompt.
Estimate paired_difference(const std::vector<ClipResult>& a, const std::vector<ClipResult>& b);

}  // namespace quantsparse::bench
