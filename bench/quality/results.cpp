#include "quality/results.hpp"

#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

std::string line_of(const std::string& row, int prompt, const Json& result) {
    Json json{{"row", row}, {"prompt", prompt}};
    json.update(result);
    return json.dump() + '\n';
}

}  // namespace

ResultsFile::ResultsFile(std::filesystem::path file, const std::string& settings)
    : file_(std::move(file)) {
    std::ifstream in(file_);
    std::string line;
    bool same = false;
    if (std::getline(in, line)) {
        const Json head = Json::parse(line, nullptr, false);
        same = head.is_object() && head.value("settings", "") == settings;
    }
    while (same && std::getline(in, line)) {
        Json json = Json::parse(line, nullptr, false);
        if (!json.is_object()) break;  // the line a stopped run was writing
        const std::string row = json.at("row").get<std::string>();
        const int prompt = json.at("prompt").get<int>();
        json.erase("row");
        json.erase("prompt");
        results_[row][prompt] = std::move(json);
    }
    std::ofstream out(file_, std::ios::trunc);
    out << Json{{"settings", settings}}.dump() << '\n';
    for (const auto& [row, prompts] : results_) {
        for (const auto& [prompt, result] : prompts) out << line_of(row, prompt, result);
    }
    out.flush();
    if (!out) {
        throw Error(ErrorCode::io, fmt::format("can't write '{}': check the folder's permissions "
                                               "and free space",
                                               file_.string()));
    }
}

void ResultsFile::add(const std::string& row, int prompt, const Json& result) {
    results_[row][prompt] = result;
    std::ofstream out(file_, std::ios::app);
    out << line_of(row, prompt, result);
    out.flush();
    if (!out) {
        throw Error(ErrorCode::io,
                    fmt::format("can't append to '{}': is the disk full?", file_.string()));
    }
}

const ResultsFile::OfRow& ResultsFile::of(const std::string& row) const {
    static const OfRow kNone;
    const auto found = results_.find(row);
    return found == results_.end() ? kNone : found->second;
}

Estimate estimate(const std::vector<double>& values) {
    Estimate e;
    e.count = static_cast<int>(values.size());
    if (values.empty()) return e;
    for (const double v : values) e.mean += v / e.count;
    double squares = 0;
    for (const double v : values) squares += (v - e.mean) * (v - e.mean);
    if (e.count > 1) e.standard_error = std::sqrt(squares / (e.count - 1) / e.count);
    return e;
}

Estimate estimate(const std::map<int, double>& values) {
    std::vector<double> all;
    for (const auto& [prompt, value] : values) all.push_back(value);
    return estimate(all);
}

Estimate paired_difference(const std::map<int, double>& a, const std::map<int, double>& b) {
    std::vector<double> differences;
    for (const auto& [prompt, value] : a) {
        const auto found = b.find(prompt);
        if (found != b.end()) differences.push_back(value - found->second);
    }
    return estimate(differences);
}

}  // namespace quantsparse::bench
