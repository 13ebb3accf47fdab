#include "velocity/runner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "interrupt.hpp"
#include "quality/counter.hpp"
#include "quality/models.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/pipeline.hpp"
#include "velocity/row_facts.hpp"
#include "velocity/trajectory.hpp"

namespace quantsparse::bench {
namespace fs = std::filesystem;
namespace {

std::vector<std::string> settings_of(const QualityTable& table, const QualityGroup& group) {
    std::vector<std::string> settings = table.settings;
    settings.insert(settings.end(), group.settings.begin(), group.settings.end());
    return settings;
}

/// The run of the unquantised model with dense attention; groups of the same settings share it.
fs::path reference_file(const fs::path& work_directory, const QualityTable& table,
                        const QualityGroup& group, int prompt) {
    return work_directory / "reference" /
           (reference_name(table, group.settings, prompt) + ".trajectory");
}

Json to_json(const VelocityResult& r) {
    return {{"steps", r.steps},
            {"errors", r.errors},
            {"dense_layers", r.dense_layers},
            {"pairs", r.pairs}};
}

/// One row of one group, to be measured with all prompts.
struct Task {
    const QualityGroup* group;
    const QualityRow* row;
    std::string identity;
};

/// All rows once, those of one model together.
std::vector<Task> tasks_of(const QualityTable& table) {
    std::vector<Task> tasks;
    std::set<std::string> seen;
    for (const QualityGroup& group : table.groups) {
        for (const QualityRow& row : group.rows) {
            const std::string identity = velocity_identity(group, row);
            if (seen.insert(identity).second) tasks.push_back({&group, &row, identity});
        }
    }
    std::stable_sort(tasks.begin(), tasks.end(),
                     [](const Task& a, const Task& b) { return a.row->model < b.row->model; });
    return tasks;
}

/// Models, opened one at a time.
class Models {
  public:
    Models(const QualityTable& table, const fs::path& work_directory, Device& device)
        : table_(table), work_directory_(work_directory), device_(device) {}

    /// The row's clip. generator() and file() are of its model from then on.
    GenerationParameters open(const QualityGroup& group, const QualityRow& row, int prompt) {
        const fs::path file = calibrated_model(table_, work_directory_, row.model);
        const video::Options options =
            row_options(table_, file, settings_of(table_, group), row, prompt);
        const std::pair opened{file, options.pipeline.requantize};
        if (!generator_ || opened_ != opened || storage_ != options.pipeline.storage) {
            generator_.reset();
            generator_.emplace(file, device_, options.pipeline);
            opened_ = opened;
            storage_ = options.pipeline.storage;
        }
        return options.generation;
    }
    Generator& generator() { return *generator_; }
    const fs::path& file() const { return opened_.first; }

  private:
    const QualityTable& table_;
    const fs::path& work_directory_;
    Device& device_;
    std::optional<Generator> generator_;
    std::pair<fs::path, std::optional<int>> opened_;
    Storage storage_ = Storage::fp32;
};

GenerationCallbacks silent() {
    GenerationCallbacks callbacks;
    callbacks.progress = [](const Progress&) { return !video::interrupted(); };
    callbacks.decode = false;
    return callbacks;
}

/// A row is only compared with a reference that takes the same steps.
void require_same_steps(const GenerationParameters& row, const GenerationParameters& reference,
                        const std::string& name) {
    const auto sampling = [](const GenerationParameters& p) {
        return std::tie(p.width, p.height, p.frames, p.steps, p.sampler, p.sigmas, p.timesteps,
                        p.guidance_scale, p.flow_shift, p.seed, p.rng);
    };
    if (sampling(row) == sampling(reference)) return;
    throw Error(ErrorCode::invalid_argument,
                fmt::format("row '{}' takes other steps than its reference: size, steps, sampler "
                            "and guidance belong to the settings of the table or the group",
                            name));
}

class Runner {
  public:
    Runner(const QualityTable& table, const fs::path& work_directory, Device& device,
           ResultsFile& results)
        : table_(table),
          work_directory_(work_directory),
          results_(results),
          models_(table, work_directory, device) {}

    /// Makes the references that are missing. False when stopped, as the next.
    bool make_references(const std::vector<Task>& tasks);
    bool run(const std::vector<Task>& tasks);

  private:
    int prompts() const { return static_cast<int>(table_.prompts.size()); }
    bool missing(const Task& task, int prompt) const {
        return !results_.has(task.identity, prompt);
    }
    bool make_reference(const QualityGroup& group, int prompt, const fs::path& file);
    bool run(const Task& task, int prompt, Counter& counter);
    bool predict(Measure measure, const GenerationParameters& p, Trajectory& reference,
                 VelocityResult& result);

    const QualityTable& table_;
    const fs::path& work_directory_;
    ResultsFile& results_;
    Models models_;
};

bool Runner::make_references(const std::vector<Task>& tasks) {
    std::map<fs::path, std::pair<const QualityGroup*, int>> files;
    for (const Task& task : tasks) {
        for (int prompt = 0; prompt < prompts(); ++prompt) {
            const fs::path file = reference_file(work_directory_, table_, *task.group, prompt);
            if (missing(task, prompt) && !fs::exists(file)) files[file] = {task.group, prompt};
        }
    }
    Counter counter(static_cast<double>(files.size()));
    for (const auto& [file, of] : files) {
        fs::create_directories(file.parent_path());
        if (!make_reference(*of.first, of.second, file)) return false;
        counter.done("reference", of.second, joined(of.first->settings));
    }
    return true;
}

bool Runner::make_reference(const QualityGroup& group, int prompt, const fs::path& file) {
    const GenerationParameters p = models_.open(group, QualityRow{}, prompt);
    if (p.attention.kind == AttentionKind::sparse || p.step_cache > 0) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the settings of group '{}' change the attention of the reference: "
                                "they belong to its rows",
                                group.title));
    }
    TrajectoryWriter out(file, *models_.generator().resolve(p).steps);
    GenerationCallbacks callbacks = silent();
    callbacks.before_step = [&](int, std::span<float> latent) {
        out.add(latent);
        return true;
    };
    callbacks.predicted = [&](int, std::span<const float> prediction) { out.add(prediction); };
    const std::optional<Video> clip = models_.generator().generate(p, callbacks);
    if (!clip) return false;
    out.add(clip->latents);
    out.finish();
    return true;
}

bool Runner::run(const std::vector<Task>& tasks) {
    const auto amount = [](const Task& task) {
        return measure_of(task.group->measure) == Measure::levels ? 1.0 : 4.0;
    };
    double total = 0;
    for (const Task& task : tasks) {
        for (int p = 0; p < prompts(); ++p) total += missing(task, p) ? amount(task) : 0;
    }
    Counter counter(total);
    for (const Task& task : tasks) {
        for (int p = 0; p < prompts(); ++p) {
            if (missing(task, p) && !run(task, p, counter)) return false;
        }
    }
    return true;
}

bool Runner::run(const Task& task, int prompt, Counter& counter) {
    Trajectory reference(reference_file(work_directory_, table_, *task.group, prompt));
    const Measure measure = measure_of(task.group->measure);
    const GenerationParameters p = models_.open(*task.group, *task.row, prompt);
    const Generator& generator = models_.generator();
    const video::Options plain =
        row_options(table_, models_.file(), settings_of(table_, *task.group), {}, prompt);
    require_same_steps(generator.resolve(p), generator.resolve(plain.generation), task.row->name);
    const StepCounts steps = generator.step_counts(p);
    if (measure == Measure::levels && (steps.refresh > 0 || steps.reused > 0)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("row '{}' keeps something from step to step: measure its group by "
                                "path or latents",
                                task.row->name));
    }
    const RowFacts facts = row_facts(models_.file(), generator, p);
    VelocityResult result{{}, {}, facts.dense_layers, facts.pairs};
    if (!predict(measure, p, reference, result)) return false;
    results_.add(task.identity, prompt, to_json(result));
    counter.done(task.row->name, prompt,
                 fmt::format("{:.2f} dB", signal_to_noise(measure, result.errors)),
                 measure == Measure::levels ? 1 : 4);
    return true;
}

bool Runner::predict(Measure measure, const GenerationParameters& p, Trajectory& reference,
                     VelocityResult& result) {
    GenerationCallbacks callbacks = silent();
    const std::vector<int> levels = level_steps(reference.steps(), kLevels);
    if (measure != Measure::latents) {
        callbacks.before_step = [&](int step, std::span<float> latent) {
            if (measure == Measure::levels &&
                std::find(levels.begin(), levels.end(), step) == levels.end()) {
                return false;
            }
            const std::vector<float> given = reference.latent(step);
            if (given.size() != latent.size()) {
                throw Error(ErrorCode::bad_file,
                            "a stored reference has another size: remove the work directory");
            }
            std::copy(given.begin(), given.end(), latent.begin());
            return true;
        };
        callbacks.predicted = [&](int step, std::span<const float> prediction) {
            result.steps.push_back(step);
            result.errors.push_back(relative_error(prediction, reference.prediction(step)));
        };
    }
    const std::optional<Video> clip = models_.generator().generate(p, callbacks);
    if (clip && measure == Measure::latents) {
        result.errors = {relative_error(clip->latents, reference.final_latent())};
    }
    return clip.has_value();
}

}  // namespace

VelocityResult velocity_result_of(const Json& json) {
    return {json.at("steps").get<std::vector<int>>(), json.at("errors").get<std::vector<double>>(),
            json.at("dense_layers").get<int>(), json.at("pairs").get<double>()};
}

std::string velocity_identity(const QualityGroup& group, const QualityRow& row) {
    return fmt::format("{}|{}|{}", word_of(measure_of(group.measure)), joined(group.settings),
                       row.identity());
}

std::vector<PlannedRow> velocity_rows(const QualityTable& table, const fs::path& work_directory) {
    const auto levels = [](int steps, int branches) {
        return whole_run(std::min(steps, kLevels), branches);
    };
    std::vector<PlannedRow> references, rows;
    std::set<std::string> seen;
    for (const Task& task : tasks_of(table)) {
        const auto settings = settings_of(table, *task.group);
        if (seen.insert(joined(task.group->settings)).second) {
            QualityRow row;
            row.name = task.group->settings.empty() ? "reference"
                                                    : "reference " + joined(task.group->settings);
            std::vector<fs::path> files;
            for (int prompt = 0; prompt < static_cast<int>(table.prompts.size()); ++prompt) {
                files.push_back(reference_file(work_directory, table, *task.group, prompt));
            }
            references.push_back({settings, row, files, whole_run});
        }
        const bool few = measure_of(task.group->measure) == Measure::levels;
        rows.push_back({settings, *task.row, {}, few ? levels : whole_run});
    }
    references.insert(references.end(), rows.begin(), rows.end());
    return references;
}

bool measure_velocities(const QualityTable& table, const fs::path& work_directory, Device& device,
                        ResultsFile& results) {
    const std::vector<Task> tasks = tasks_of(table);
    Runner runner(table, work_directory, device, results);
    return runner.make_references(tasks) && runner.run(tasks);
}

}  // namespace quantsparse::bench
