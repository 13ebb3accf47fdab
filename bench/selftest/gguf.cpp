// The GGUF reader: every value to the bit, and every broken variant of the file refused.
#include "format/gguf.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <bit>
#include <fstream>
#include <iterator>

#include "quantsparse/error.hpp"
#include "selftest/case.hpp"

namespace quantsparse::selftest {
namespace {

bool same_bits(std::span<const float> a, std::span<const float> b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
        return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
    });
}

Result compare_tensors(const Case& c) {
    RunReport report(c.name + "/values", {0, 0});
    const auto file = format::open_tensor_source(c.weights());
    const auto& entries = c.json.at("gguf_tensors");
    report.require(file->tensors().size() == entries.size(), "another number of tensors");
    for (const auto& entry : entries) {
        const auto name = entry.at("name").get<std::string>();
        const format::TensorView& view = file->at(name);
        report.require(format::name_of(view.dtype) == entry.at("type").get<std::string>(),
                       name + " has another type");
        report.require(view.shape == entry.at("shape").get<std::vector<std::int64_t>>(),
                       name + " has another shape");
        const auto ours = format::to_float(view);
        const auto reference = c.floats("out." + name);
        report.require(same_bits(ours, reference), name + " differs in its bits");
        report.output(name, ours, reference);
    }
    return report.result();
}

std::string bytes_of_file(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// The file with the variant's edits: bytes in hexadecimal at an offset, or a cut.
std::string broken_bytes(std::string bytes, const nlohmann::json& variant) {
    for (const auto& edit : variant.value("edits", nlohmann::json::array())) {
        const auto digits = edit.at("bytes").get<std::string>();
        const auto offset = edit.at("offset").get<std::size_t>();
        for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
            bytes.at(offset + i / 2) =
                static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
        }
    }
    bytes.resize(variant.value("truncate_to", bytes.size()));
    return bytes;
}

Result refuse(const Case& c, const std::string& bytes, const nlohmann::json& variant) {
    const auto id = variant.at("id").get<std::string>();
    RunReport report(fmt::format("{}/{}", c.name, id), {0, 0});
    const auto path = std::filesystem::temp_directory_path() /
                      fmt::format("quantsparse-selftest-{}.gguf", ::getpid());
    std::ofstream(path, std::ios::binary) << broken_bytes(bytes, variant);
    try {
        format::open_tensor_source(path);
        report.require(false, "it was opened");
    } catch (const Error& error) {
        report.require(std::string(error.what()).find('\n') == std::string::npos,
                       "the refusal has several lines");
    }
    std::filesystem::remove(path);
    return report.result();
}

}  // namespace

std::vector<Result> run_gguf(const Case& c) {
    std::vector<Result> results = {compare_tensors(c)};
    const std::string bytes = bytes_of_file(c.weights());
    for (const auto& variant : c.json.value("broken", nlohmann::json::array())) {
        results.push_back(refuse(c, bytes, variant));
    }
    return results;
}

}  // namespace quantsparse::selftest
