#include "quality/models.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace fs = std::filesystem;

namespace {

/// What a calibrated file was made from. Files of earlier versions have none beside them.
fs::path made_from_file(const fs::path& model) {
    return model.string() + ".flags";
}

/// A file of the same name that something else was made of would give its figures to this row.
void require_same_flags(const fs::path& file, const std::string& made_from) {
    std::ifstream in(made_from_file(file));
    std::string line;
    if (in && std::getline(in, line) && line != made_from) {
        throw Error(ErrorCode::io,
                    fmt::format("'{}' was made by '{}', but the table says '{}': take another work "
                                "directory, or remove it and its results",
                                file.string(), line, made_from));
    }
}

}  // namespace

fs::path model_file(const fs::path& work_directory, const std::string& name) {
    return work_directory / (name + ".safetensors");
}

fs::path calibrated_model(const QualityTable& table, const fs::path& work_directory,
                          const std::string& name) {
    if (name.empty()) return table.model;
    const fs::path file = model_file(work_directory, name);
    const auto& flags = table.models.at(name);
    const std::string made_from = table.model.generic_string() + " " + joined(flags);
    if (fs::exists(file)) {
        require_same_flags(file, made_from);
        return file;
    }
    const fs::path program =
        fs::read_symlink("/proc/self/exe").parent_path() / "quantsparse-calibrate";
    std::vector<std::string> words = {program.string(), "--model", table.model.string(), "--output",
                                      file.string()};
    words.insert(words.end(), flags.begin(), flags.end());
    fmt::print(stderr, "calibrating {}: {}\n", name, joined(flags));
    const fs::path log = work_directory / (name + ".log");
    const pid_t child = fork();
    if (child == 0) {
        const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
        dup2(out, STDOUT_FILENO);
        dup2(out, STDERR_FILENO);
        std::vector<char*> argv;
        for (std::string& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        execv(program.c_str(), argv.data());
        _exit(127);
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        throw Error(ErrorCode::io,
                    fmt::format("calibrating '{}' failed: see '{}'", name, log.string()));
    }
    std::ofstream(made_from_file(file)) << made_from << '\n';
    return file;
}

video::Options row_options(const QualityTable& table, const fs::path& model,
                           const std::vector<std::string>& settings, const QualityRow& row,
                           int prompt) {
    std::vector<std::string> words = {
        "quantsparse-video",
        "-m",
        model.string(),
        "-o",
        "-",
        "-p",
        table.prompts[static_cast<std::size_t>(prompt)],
        "--seed",
        std::to_string(table.first_seed + static_cast<std::uint64_t>(prompt))};
    words.insert(words.end(), settings.begin(), settings.end());
    words.insert(words.end(), row.flags.begin(), row.flags.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    const video::ParseResult result =
        video::parse_options(static_cast<int>(argv.size()), argv.data());
    if (result.exit_code) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("row '{}' has flags that quantsparse-video refuses: {}", row.name,
                                joined(row.flags)));
    }
    return result.options;
}

}  // namespace quantsparse::bench
