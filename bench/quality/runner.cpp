#include "quality/runner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>

#include "interrupt.hpp"
#include "picture_metrics.hpp"
#include "quality/clip_result.hpp"
#include "quality/counter.hpp"
#include "quality/models.hpp"
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
fs::path reference_file(const fs::path& work_directory, const QualityTable& table, int prompt) {
    return work_directory / kReference / (reference_name(table, {}, prompt) + ".rgb");
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
    if (!asked.complete()) return r;
    const SceneWords seen = check_clip(clip.rgb, clip.frames, clip.height, clip.width);
    r.followed = {{seen.colour == asked.colour, seen.background == asked.background,
                   seen.shape == asked.shape, seen.motion == asked.motion}};
    return r;
}

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
            const bool gone = identity == kReference &&
                              !fs::exists(reference_file(work_directory_, table_, prompt));
            if (results_.has(identity, prompt) && !gone) continue;
            if (!run_prompt(row, identity, prompt)) return false;
        }
        return true;
    }

  private:
    bool run_prompt(const QualityRow& row, const std::string& identity, int prompt) {
        open(row.model);
        const video::Options options = row_options(table_, model_, table_.settings, row, prompt);
        GenerationCallbacks callbacks;
        callbacks.progress = [](const Progress&) { return !video::interrupted(); };
        const std::optional<Video> clip = pipeline_->generate(options.generation, callbacks);
        if (!clip) return false;
        const fs::path reference = reference_file(work_directory_, table_, prompt);
        if (identity == kReference) write_bytes(reference, clip->rgb);
        ClipResult result =
            compare(*clip, read_bytes(reference), table_.prompts[static_cast<std::size_t>(prompt)]);
        for (const StageTime& stage : pipeline_->stage_times()) {
            if (stage.stage == "denoise") result.seconds = stage.seconds;
        }
        if (prompt < kStrips) write_strip(strip_file(work_directory_, identity, prompt), *clip);
        results_.add(identity, prompt, to_json(result));
        counter_.done(row.name, prompt,
                      fmt::format("{:.2f} dB, {:.1f} s", result.psnr, result.seconds));
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

fs::path strip_file(const fs::path& work_directory, const std::string& identity, int prompt) {
    std::string name = identity;
    for (char& c : name) {
        if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '_';
    }
    return work_directory / "strips" / fmt::format("{}.{}.png", name, prompt);
}

std::vector<PlannedRow> quality_rows(const QualityTable& table, const fs::path& work_directory) {
    QualityRow reference;
    reference.name = kReference;
    std::vector<fs::path> files;
    for (int prompt = 0; prompt < static_cast<int>(table.prompts.size()); ++prompt) {
        files.push_back(reference_file(work_directory, table, prompt));
    }
    std::vector<PlannedRow> rows = {{table.settings, reference, files, whole_run}};
    for (const QualityRow& row : distinct_rows(table)) {
        rows.push_back({table.settings, row, {}, whole_run});
    }
    return rows;
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
