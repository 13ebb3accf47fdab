#include "report.hpp"

#include <fmt/format.h>
#include <fstream>

#include "quantsparse/error.hpp"

namespace quantsparse::bench {

std::string bytes_text(std::uint64_t bytes) {
    const char* unit = "B";
    double value = static_cast<double>(bytes);
    for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
        if (value < 1024) break;
        value /= 1024;
        unit = larger;
    }
    return unit[0] == 'B' ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, unit);
}

void write_text(const std::filesystem::path& file, const std::string& text) {
    std::filesystem::path beside = file;
    beside += ".part";
    std::error_code error;
    {
        std::ofstream out(beside, std::ios::binary);
        out << text;
        out.close();
        if (out) {
            std::filesystem::rename(beside, file, error);
            if (!error) return;
        }
    }
    std::error_code ignored;
    std::filesystem::remove(beside, ignored);
    throw Error(ErrorCode::io,
                fmt::format("cannot write '{}'{}{}: check the folder and its permissions",
                            file.string(), error ? ": " : "", error ? error.message() : ""));
}

void write_json(const std::filesystem::path& file, const Json& json) {
    // A driver's strings need not be UTF-8.
    write_text(file, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace quantsparse::bench
