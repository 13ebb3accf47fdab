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
    return table;
}

/// One prompt per line; empty lines are left out.
std::vector<std::string> prompts_of(const std::filesystem::path& file) {
    std::ifstream in(file);
    std::vector<std::string> prompts;
    for (std::string line; std::getline(in, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.find_first_not_of(" \t") != std::string::npos) prompts.push_back(line);
    }
    if (in.bad() || (!in.eof() && in.fail())) {
        throw Error(ErrorCode::io,
                    fmt::format("can't read the prompts '{}': check the path", file.string()));
    }
    if (prompts.empty()) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' holds no prompts: write one per line", file.string()));
    }
    return prompts;
}

}  // namespace

std::string fingerprint(const std::string& text) {
    std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return fmt::format("{:016x}", hash);
}

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
    if (!options.model.empty()) table.model = options.model;
    if (!options.prompt_file.empty()) {
        table.prompts = prompts_of(options.prompt_file);
        table.prompt_source =
            fmt::format("prompts {} {}", options.prompt_file.filename().string(),
                        fingerprint(fmt::format("{}", fmt::join(table.prompts, "\n"))));
    }
    if (table.prompts.empty()) {
        throw Error(ErrorCode::bad_file, fmt::format("'{}' lists no prompts: give a file of them",
                                                     options.table.string()));
    }
    // The parser takes the last of a flag. What a group or row says itself is what it is about.
    table.settings.insert(table.settings.end(), options.settings.begin(), options.settings.end());
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

std::string reference_name(const QualityTable& table, const std::vector<std::string>& settings,
                           int prompt) {
    const std::string& text = table.prompts[static_cast<std::size_t>(prompt)];
    const std::string all = fmt::format("{} {} {}", settings_text(table), joined(settings), text);
    return fmt::format("{:03d}-{}", prompt, fingerprint(all));
}

std::string settings_text(const QualityTable& table) {
    std::string text = fmt::format("{} {} seed {}", table.model.string(), joined(table.settings),
                                   table.first_seed);
    if (!table.prompt_source.empty()) text += " " + table.prompt_source;
    return text;
}

}  // namespace quantsparse::bench
