#include "prompt_text.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>

#include "quantsparse/error.hpp"

namespace quantsparse::video {

std::string read_prompt(const std::string& path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
        throw Error(ErrorCode::io,
                    fmt::format("the prompt file '{}' is a folder: give a text file", path));
    }
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (!file) {
        throw Error(ErrorCode::io,
                    fmt::format("can't read the prompt file '{}': check the path", path));
    }
    return text;
}

std::vector<std::string> foreign_syntax(const std::string& what, const std::string& text) {
    // Short repetitions: a regular expression of the library recurses over them.
    static const std::regex tag("<(lora|lyco|hypernet|embedding):[^<>]{1,200}>", std::regex::icase);
    static const std::regex weight("\\([^()]{1,200}:[0-9.]{1,8}\\)");
    std::vector<std::string> lines;
    std::smatch match;
    if (std::regex_search(text, match, tag)) {
        lines.push_back(fmt::format(
            "the {} has '{}', which loads nothing: it is read as plain text", what, match.str()));
    }
    if (std::regex_search(text, match, weight)) {
        lines.push_back(
            fmt::format("the {} has '{}', but words have no weights here: it is read as "
                        "plain text",
                        what, match.str()));
    }
    return lines;
}

}  // namespace quantsparse::video
