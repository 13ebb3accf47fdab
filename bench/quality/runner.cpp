#include "quality/runner.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>

#include "interrupt.hpp"
#include "options.hpp"
#include "picture_metrics.hpp"
#include "quality/shape_checker.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/pipeline.hpp"
#include "writer.hpp"

namespace quantsparse::bench {
namespace fs = std::filesystem;
namespace {

constexpr const char* kReference = "reference";
constexpr int kStripFrames = 6;

/// The clip of the unquantised model that the others of a prompt are compared with.
fs::path reference_file(const fs::path& work_directory, int prompt) {
    return work_directory / kReference / fmt::format("{:03d}.rgb", prompt);
}

/// A row's command line, read by the very parser of quantsparse-video.
video::Options parse_flags(const QualityTable& table, const fs::path& model, const QualityRow& row,
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
    words.insert(words.end(), table.settings.begin(), table.settings.end());
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

/// Runs quantsparse-calibrate, which lies beside this program, unless its file is there already.
fs::path calibrated_model(const QualityTable& table, const fs::path& work_directory,
                          const std::string& name) {
    if (name.empty()) return table.model;
    const fs::path file = work_directory / (name + ".safetensors");
    if (fs::exists(file)) return file;
    const fs::path program =
        fs::read_symlink("/proc/self/exe").parent_path() / "quantsparse-calibrate";
    std::vector<std::string> words = {program.string(), "--model", table.model.string(), "--output",
                                      file.string()};
    const auto& flags = table.models.at(name);
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
    return file;
}

void write_bytes(const fs::path& file, const std::vector<std::uint8_t>& bytes) {
    const fs::path beside = file.string() + ".part";
    std::ofstream out(beside, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
    out.close();
    if (!out) throw Error(ErrorCode::io, fmt::format("can't write '{}'", file.string()));
    fs::rename(beside, file);
}

std::vector<std::uint8_t> read_bytes(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// Frames side by side, evenly spread over the clip.
void write_strip(const fs::path& file, const Video& clip) {
    const int shown = std::min(kStripFrames, clip.frames);
    const std::size_t row_bytes = static_cast<std::size_t>(clip.width) * 3;
    std::vector<std::uint8_t> strip;
    for (int y = 0; y < clip.height; ++y) {
        for (int i = 0; i < shown; ++i) {
            const int frame = shown == 1 ? 0 : i * (clip.frames - 1) / (shown - 1);
            const auto begin =
                clip.rgb.begin() +
                static_cast<std::ptrdiff_t>(
                    (static_cast<std::size_t>(frame) * static_cast<std::size_t>(clip.height) +
                     static_cast<std::size_t>(y)) *
                    row_bytes);
            strip.insert(strip.end(), begin, begin + static_cast<std::ptrdiff_t>(row_bytes));
        }
    }
    video::write_png(file, clip.width * shown, clip.height, strip);
}

ClipResult compare(const Video& clip, std::span<const std::uint8_t> reference,
                   const std::string& prompt) {
    if (reference.size() != clip.rgb.size()) {
        throw Error(ErrorCode::bad_file,
                    "a stored reference clip has another size: remove the "
                    "work directory");
    }
    constexpr double kEqual = 99;  // dB of frames without any difference
    const std::size_t frame_bytes = clip.rgb.size() / static_cast<std::size_t>(clip.frames);
    ClipResult r;
    for (std::size_t f = 0; f < static_cast<std::size_t>(clip.frames); ++f) {
        const video::PictureView a{clip.width, clip.height,
                                   std::span(clip.rgb).subspan(f * frame_bytes, frame_bytes)};
        const video::PictureView b{clip.width, clip.height,
                                   reference.subspan(f * frame_bytes, frame_bytes)};
        r.psnr += std::min(
            kEqual, video::psnr(video::squared_difference(a, b), static_cast<double>(frame_bytes)));
        r.ssim += video::structural_similarity(a, b);
        r.gmsd += video::gradient_deviation(a, b);
    }
    r.psnr /= clip.frames;
    r.ssim /= clip.frames;
    r.gmsd /= clip.frames;
    const SceneWords asked = words_of_prompt(prompt);
    const SceneWords seen = check_clip(clip.rgb, clip.frames, clip.height, clip.width);
    r.colour = seen.colour == asked.colour;
    r.background = seen.background == asked.background;
    r.shape = seen.shape == asked.shape;
    r.motion = seen.motion == asked.motion;
    return r;
}

/// Clips done of all, with the time left, on standard error.
class Counter {
  public:
    explicit Counter(int total) : total_(total) {}
    void done(const std::string& row, const ClipResult& r) {
        ++done_;
        const double elapsed =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
        const int left = static_cast<int>(elapsed * (total_ - done_) / done_);
        fmt::print(stderr, "{}/{} {} prompt {}: {:.2f} dB, {:.1f} s; {}:{:02d} left\n", done_,
                   total_, row, r.prompt, r.psnr, r.seconds, left / 60, left % 60);
    }

  private:
    int total_;
    int done_ = 0;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// One row's missing clips.
class RowRunner {
  public:
    RowRunner(const QualityTable& table, const fs::path& work_directory, Device& device,
              ResultsFile& results, Counter& counter)
        : table_(table),
          work_directory_(work_directory),
          device_(device),
          results_(results),
          counter_(counter) {}

    bool run(const QualityRow& row, const std::string& identity) {
        for (int prompt = 0; prompt < static_cast<int>(table_.prompts.size()); ++prompt) {
            // Results may have been brought here without the reference clips: those are made again.
            const bool gone =
                identity == kReference && !fs::exists(reference_file(work_directory_, prompt));
            if (results_.has(identity, prompt) && !gone) continue;
            if (!run_prompt(row, identity, prompt)) return false;
        }
        return true;
    }

  private:
    bool run_prompt(const QualityRow& row, const std::string& identity, int prompt) {
        open(row.model);
        const video::Options options = parse_flags(table_, model_, row, prompt);
        GenerationCallbacks callbacks;
        callbacks.progress = [](const Progress&) { return !video::interrupted(); };
        const std::optional<Video> clip = pipeline_->generate(options.generation, callbacks);
        if (!clip) return false;
        const fs::path reference = reference_file(work_directory_, prompt);
        if (identity == kReference) write_bytes(reference, clip->rgb);
        ClipResult result =
            compare(*clip, read_bytes(reference), table_.prompts[static_cast<std::size_t>(prompt)]);
        result.row = identity;
        result.prompt = prompt;
        for (const StageTime& stage : pipeline_->stage_times()) {
            if (stage.stage == "denoise") result.seconds = stage.seconds;
        }
        if (prompt < kStrips) write_strip(strip_file(work_directory_, identity, prompt), *clip);
        results_.add(result);
        counter_.done(row.name, result);
        return true;
    }

    void open(const std::string& model) {
        if (pipeline_ && opened_ == model) return;
        model_ = calibrated_model(table_, work_directory_, model);
        pipeline_.emplace(model_, device_);
        opened_ = model;
    }

    const QualityTable& table_;
    const fs::path& work_directory_;
    Device& device_;
    ResultsFile& results_;
    Counter& counter_;
    std::optional<Generator> pipeline_;
    std::string opened_;
    fs::path model_;
};

/// All rows once, those of one model together.
std::vector<QualityRow> distinct_rows(const QualityTable& table) {
    std::vector<QualityRow> rows;
    std::set<std::string> seen;
    for (const QualityGroup& group : table.groups) {
        for (const QualityRow& row : group.rows) {
            if (seen.insert(row.identity()).second) rows.push_back(row);
        }
    }
    std::stable_sort(rows.begin(), rows.end(),
                     [](const QualityRow& a, const QualityRow& b) { return a.model < b.model; });
    return rows;
}

}  // namespace

QualityTable selected(QualityTable table, const QualityOptions& options) {
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

fs::path strip_file(const fs::path& work_directory, const std::string& identity, int prompt) {
    std::string name = identity;
    for (char& c : name) {
        if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '_';
    }
    return work_directory / "strips" / fmt::format("{}.{}.png", name, prompt);
}

bool measure(const QualityTable& table, const fs::path& work_directory, Device& device,
             ResultsFile& results) {
    fs::create_directories(work_directory / "reference");
    fs::create_directories(work_directory / "strips");
    const std::vector<QualityRow> rows = distinct_rows(table);
    int missing = 0;
    const auto count = [&](const std::string& identity) {
        for (int p = 0; p < static_cast<int>(table.prompts.size()); ++p) {
            missing += !results.has(identity, p);
        }
    };
    count(kReference);
    for (const QualityRow& row : rows) count(row.identity());
    Counter counter(missing);
    RowRunner runner(table, work_directory, device, results, counter);
    QualityRow reference;
    reference.name = kReference;
    if (!runner.run(reference, kReference)) return false;
    for (const QualityRow& row : rows) {
        if (!runner.run(row, row.identity())) return false;
    }
    return true;
}

}  // namespace quantsparse::bench
