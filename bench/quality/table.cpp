#include "quality/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

using SortedJson = nlohmann::json;

std::vector<std::string> words_of(const SortedJson& json, const char* key) {
    return json.contains(key) ? json.at(key).get<std::vector<std::string>>()
                              : std::vector<std::string>{};
}

/// A misspelt key would change what is measured without a word.
void require_known(const SortedJson& json, const std::set<std::string>& known, const char* what) {
    for (const auto& [key, value] : json.items()) {
        if (!known.contains(key)) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("{} has an entry '{}', which this version doesn't know: one of "
                                    "{} is meant, or it must go",
                                    what, key, fmt::join(known, ", ")));
        }
    }
}

QualityRow row_of(const SortedJson& json) {
    require_known(json, {"name", "model", "flags", "x"}, "a row");
    QualityRow row;
    row.name = json.at("name").get<std::string>();
    row.model = json.value("model", "");
    row.flags = words_of(json, "flags");
    if (json.contains("x")) row.x = json.at("x").get<double>();
    return row;
}

QualityGroup group_of(const SortedJson& json, const QualityTable& table) {
    require_known(json, {"title", "expected", "x", "measure", "settings", "against", "rows"},
                  "a group");
    QualityGroup group;
    group.title = json.at("title").get<std::string>();
    group.expected = json.value("expected", "");
    group.x_label = json.value("x", "");
    group.measure = json.value("measure", "");
    group.settings = words_of(json, "settings");
    group.against = json.value("against", "");
    for (const SortedJson& row : json.at("rows")) group.rows.push_back(row_of(row));
    for (const QualityRow& row : group.rows) {
        if (!row.model.empty() && !table.models.count(row.model)) {
            throw Error(ErrorCode::bad_file, fmt::format("row '{}' uses model '{}', which "
                                                         "\"models\" does not list",
                                                         row.name, row.model));
        }
    }
    if (group.rows.empty()) {
        throw Error(ErrorCode::bad_file, fmt::format("group '{}' has no rows", group.title));
    }
    if (!group.against.empty() && group.base().name != group.against) {
        throw Error(ErrorCode::bad_file, fmt::format("group '{}' has no row '{}' to compare with",
                                                     group.title, group.against));
    }
    return group;
}

QualityTable table_of(const SortedJson& json) {
    require_known(json, {"title", "model", "settings", "prompts", "first_seed", "models", "groups"},
                  "the table");
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
        table.groups.push_back(group_of(entry, table));
    }
    if (table.prompts.empty()) throw Error(ErrorCode::bad_file, "it lists no prompts");
    return table;
}

}  // namespace

std::string joined(const std::vector<std::string>& words) {
    return fmt::format("{}", fmt::join(words, " "));
}

std::string QualityRow::identity() const {
    return model + "|" + joined(flags);
}

const QualityRow& QualityGroup::base() const {
    const auto found = std::find_if(rows.begin(), rows.end(),
                                    [this](const QualityRow& row) { return row.name == against; });
    return found == rows.end() ? rows.front() : *found;
}

QualityTable read_quality_table(const std::filesystem::path& file) {
    std::ifstream in(file);
    if (!in) {
        throw Error(ErrorCode::io,
                    fmt::format("can't read the table '{}': check the path", file.string()));
    }
    try {
        return table_of(SortedJson::parse(in));
    } catch (const SortedJson::exception& error) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' is no quality table: {}", file.string(), error.what()));
    } catch (const Error& error) {
        throw Error(ErrorCode::bad_file, fmt::format("'{}': {}", file.string(), error.what()));
    }
}

QualityTable selected(QualityTable table, const TableOptions& options) {
    if (options.prompts > 0 && options.prompts < static_cast<int>(table.prompts.size())) {
        table.prompts.resize(static_cast<std::size_t>(options.prompts));
    }
    if (!options.only.empty()) {
        std::erase_if(table.groups, [&](const QualityGroup& group) {
            return std::find(options.only.begin(), options.only.end(), group.title) ==
                   options.only.end();
        });
        if (table.groups.empty()) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("the table has no group '{}'", options.only.front()));
        }
    }
    return table;
}

std::string settings_text(const QualityTable& table) {
    return fmt::format("{} {} seed {}", table.model.string(), joined(table.settings),
                       table.first_seed);
}

}  // namespace quantsparse::bench
