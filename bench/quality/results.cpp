#include "quality/results.hpp"

#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "quantsparse/error.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace {

Json to_json(const ClipResult& r) {
    return {{"row", r.row},       {"prompt", r.prompt},
            {"psnr", r.psnr},     {"ssim", r.ssim},
            {"gmsd", r.gmsd},     {"seconds", r.seconds},
            {"colour", r.colour}, {"background", r.background},
            {"shape", r.shape},   {"motion", r.motion}};
}

ClipResult from_json(const Json& json) {
    ClipResult r;
    r.row = json.at("row").get<std::string>();
    r.prompt = json.at("prompt").get<int>();
    r.psnr = json.at("psnr").get<double>();
    r.ssim = json.at("ssim").get<double>();
    r.gmsd = json.at("gmsd").get<double>();
    r.seconds = json.at("seconds").get<double>();
    r.colour = json.at("colour").get<bool>();
    r.background = json.at("background").get<bool>();
    r.shape = json.at("shape").get<bool>();
    r.motion = json.at("motion").get<bool>();
    return r;
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
        const Json json = Json::parse(line, nullptr, false);
        if (!json.is_object()) break;  // the line a stopped run was writing
        const ClipResult r = from_json(json);
        results_[r.row][r.prompt] = r;
    }
    std::ofstream out(file_, std::ios::trunc);
    out << Json{{"settings", settings}}.dump() << '\n';
    for (const auto& [row, prompts] : results_) {
        for (const auto& [prompt, result] : prompts) out << to_json(result).dump() << '\n';
    }
    out.flush();
    if (!out) {
        throw Error(ErrorCode::io, fmt::format("can't write '{}': check the folder's permissions "
                                               "and free space",
                                               file_.string()));
    }
}

bool ResultsFile::has(const std::string& row, int prompt) const {
    const auto found = results_.find(row);
    return found != results_.end() && found->second.count(prompt) > 0;
}

void ResultsFile::add(const ClipResult& result) {
    results_[result.row][result.prompt] = result;
    std::ofstream out(file_, std::ios::app);
    out << to_json(result).dump() << '\n';
    out.flush();
    if (!out) {
        throw Error(ErrorCode::io,
                    fmt::format("can't append to '{}': is the disk full?", file_.string()));
    }
}

std::vector<ClipResult> ResultsFile::of(const std::string& row) const {
    std::vector<ClipResult> out;
    const auto found = results_.find(row);
    if (found == results_.end()) return out;
    for (const auto& [prompt, result] : found->second) out.push_back(result);
    return out;
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

Estimate paired_difference(const std::vector<ClipResult>& a, const std::vector<ClipResult>& b) {
    std::map<int, double> other;
    for (const ClipResult& r : b) other[r.prompt] = r.psnr;
    std::vector<double> differences;
    for (const ClipResult& r : a) {
        const auto found = other.find(r.prompt);
        if (found != other.end()) differences.push_back(r.psnr - found->second);
    }
    return estimate(differences);
}

}  // namespace quantsparse::bench
