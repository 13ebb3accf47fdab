#include "quality/table.hpp"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

using SortedJson = nlohmann::json;

std::vector<std::string> words_of(const SortedJson& json, const char* key) {
    return json.contains(key) ? json.at(key).get<std::vector<std::string>>()
                              : std::vector<std::string>{};
}

QualityRow row_of(const SortedJson& json) {
    QualityRow row;
    row.name = json.at("name").get<std::string>();
    row.model = json.value("model", "");
    row.flags = words_of(json, "flags");
    if (json.contains("x")) row.x = json.at("x").get<double>();
    return row;
}

}  // namespace

std::string joined(const std::vector<std::string>& words) {
    return fmt::format("{}", fmt::join(words, " "));
}

std::string QualityRow::identity() const {
    return model + "|" + joined(flags);
}

QualityTable read_quality_table(const std::filesystem::path& file) {
    std::ifstream in(file);
    if (!in) {
        throw Error(ErrorCode::io,
                    fmt::format("can't read the table '{}': check the path", file.string()));
    }
    try {
        const SortedJson json = SortedJson::parse(in);
        QualityTable table;
        table.title = json.at("title").get<std::string>();
        table.model = json.at("model").get<std::string>();
        table.settings = words_of(json, "settings");
        table.prompts = words_of(json, "prompts");
        table.first_seed = json.value("first_seed", std::uint64_t{0});
        if (json.contains("models")) {
            table.models = json.at("models").get<std::map<std::string, std::vector<std::string>>>();
        }
        for (const SortedJson& entry : json.at("groups")) {
            QualityGroup group;
            group.title = entry.at("title").get<std::string>();
            group.expected = entry.value("expected", "");
            group.x_label = entry.value("x", "");
            for (const SortedJson& row : entry.at("rows")) group.rows.push_back(row_of(row));
            for (const QualityRow& row : group.rows) {
                if (!row.model.empty() && !table.models.count(row.model)) {
                    throw Error(ErrorCode::bad_file,
                                fmt::format("'{}': row '{}' uses model '{}', which \"models\" does "
                                            "not list",
                                            file.string(), row.name, row.model));
                }
            }
            table.groups.push_back(std::move(group));
        }
        if (table.prompts.empty()) {
            throw Error(ErrorCode::bad_file, fmt::format("'{}' lists no prompts", file.string()));
        }
        return table;
    } catch (const SortedJson::exception& error) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' is no quality table: {}", file.string(), error.what()));
    }
}

}  // namespace quantsparse::bench
