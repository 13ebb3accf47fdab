// What measuring a table leaves: one line of JSON per row and prompt, appended as they are done, so
// that a stopped run goes on where it was.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "ordered_json.hpp"

namespace quantsparse::bench {

class ResultsFile {
  public:
    /// By prompt.
    using OfRow = std::map<int, Json>;

    /// `settings` names everything that all results depend on: a file with other settings is begun
    /// anew.
    ResultsFile(std::filesystem::path file, const std::string& settings);

    bool has(const std::string& row, int prompt) const { return of(row).contains(prompt); }
    void add(const std::string& row, int prompt, const Json& result);
    const OfRow& of(const std::string& row) const;

  private:
    std::filesystem::path file_;
    std::map<std::string, OfRow> results_;
};

struct Estimate {
    double mean = 0;
    double standard_error = 0;
    int count = 0;
};
Estimate estimate(const std::vector<double>& values);
/// Of values by prompt.
Estimate estimate(const std::map<int, double>& values);
/// Of the differences a - b, paired by prompt.
Estimate paired_difference(const std::map<int, double>& a, const std::map<int, double>& b);

}  // namespace quantsparse::bench
