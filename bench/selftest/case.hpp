// A reference case: a folder with case.json, io.safetensors and weights, and how results are
// compared.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "format/safetensors.hpp"
#include "vulkan/device.hpp"

namespace quantsparse::selftest {

struct Tolerance {
    double rel_l2 = 0;
    double max_abs = 0;
};

/// ||a - b|| / ||b|| and max|a - b|; NaN anywhere gives infinity.
struct Difference {
    double rel_l2 = 0;
    double max_abs = 0;
    bool within(const Tolerance& tolerance) const {
        return rel_l2 <= tolerance.rel_l2 && max_abs <= tolerance.max_abs;
    }
};
Difference compare(std::span<const float> ours, std::span<const float> reference);

/// One line of the report.
struct Result {
    std::string name;
    Difference difference;
    bool passed = false;
    std::string detail;  ///< the first intermediate that differs, or what went wrong
};

struct Case {
    explicit Case(const std::filesystem::path& folder);

    std::filesystem::path folder;
    std::string name;
    nlohmann::json json;
    format::SafetensorsFile io;

    std::string kind() const { return json.at("kind").get<std::string>(); }
    std::filesystem::path weights() const;  ///< the file, or the index of a sharded one
    std::vector<float> floats(const std::string& tensor) const;
    std::vector<std::int32_t> integers(const std::string& tensor) const;
    std::vector<int> shape(const std::string& tensor) const;
    bool has(const std::string& tensor) const { return io.find(tensor) != nullptr; }
};

struct Settings {
    vulkan::Device* device = nullptr;
    bool half = false;  ///< half storage, judged by the fp16_storage tolerance
    bool force_staging = false;

    Tolerance tolerance(const nlohmann::json& of_case) const;
};

/// Collects comparisons of one run and makes its report line.
class RunReport {
  public:
    RunReport(std::string name, Tolerance tolerance) : tolerance_(tolerance) {
        result_.name = std::move(name);
        result_.passed = true;
    }
    /// Intermediates, in the order of computation: only rel_l2 counts; the first that differs is
    /// named.
    void intermediate(const std::string& name, std::span<const float> ours,
                      std::span<const float> reference);
    void output(const std::string& name, std::span<const float> ours,
                std::span<const float> reference);
    void require(bool condition, const std::string& detail);
    Result result() const { return result_; }

  private:
    Tolerance tolerance_;
    Result result_;
};

// One runner per kind; each returns a line per run.
std::vector<Result> run_dit(const Case& c, const Settings& settings);
std::vector<Result> run_adapters(const Case& c, const Settings& settings);
std::vector<Result> run_umt5(const Case& c, const Settings& settings);
std::vector<Result> run_vae(const Case& c, const Settings& settings);
std::vector<Result> run_scaled_weights(const Case& c);
std::vector<Result> run_integer_weights(const Case& c, const Settings& settings);
std::vector<Result> run_gguf(const Case& c);
std::vector<Result> run_scheduler(const Case& c);
std::vector<Result> run_pipeline(const Case& c, const Settings& settings);
std::vector<Result> run_quant_linear(const Case& c, const Settings& settings);
std::vector<Result> run_sparse_blocks(const Case& c, const Settings& settings);
std::vector<Result> run_sparse_frames(const Case& c, const Settings& settings);
std::vector<Result> run_sla(const Case& c, const Settings& settings);
std::vector<Result> run_quant_lowrank(const Case& c, const Settings& settings);
std::vector<Result> run_quant_rotation(const Case& c, const Settings& settings);

}  // namespace quantsparse::selftest
