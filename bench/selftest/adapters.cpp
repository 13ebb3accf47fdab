// LoRA files in all layouts: merged weights, and what the transformer makes of them.
#include <fmt/format.h>
#include <algorithm>

#include "format/adapter_merge.hpp"
#include "format/networks/registry.hpp"
#include "models/registry.hpp"
#include "pipeline/stage.hpp"
#include "selftest/case.hpp"

namespace quantsparse::selftest {
namespace {

/// What the transformer predicts for the inputs named `input`.
std::vector<float> forward(const Case& c, const Settings& settings, const std::string& input,
                           const format::Component& transformer, std::size_t count) {
    const auto latent = c.shape(input + "latent");
    program::Program program(pipeline::device_limits(*settings.device));
    models::DenoisingOptions options;
    options.latent = {latent[0], latent[1], latent[2], latent[3]};
    options.half = settings.half;
    const auto dit =
        models::denoising_kind(transformer.network).make(program, transformer.network, options);
    program::Executor executor(*settings.device, program, false, settings.force_staging);
    dit->weights().upload(executor, {transformer.checkpoint.get(), 0});
    dit->write(executor, "context", c.floats(input + "context"));
    executor.run(dit->prompt_phase(0));
    dit->write(executor, "latent", c.floats(input + "latent"));
    dit->write(executor, "timestep", c.floats(input + "timestep"));
    executor.run(dit->step_phase(0));
    return executor.read_values<float>(dit->prediction(0), count);
}

/// Every tensor that the run has is the reference's, and no other has changed.
void compare_weights(const Case& c, const nlohmann::json& run, const format::Component& merged,
                     RunReport& report) {
    const std::string start = run.at("id").get<std::string>() + ".weight.";
    const auto& allowed = c.json.at("tolerance").at("weight").at("fp32");
    const Tolerance tolerance{allowed.at("rel_l2").get<double>(),
                              allowed.at("max_abs").get<double>()};
    int changed = 0;
    for (const auto& name : merged.checkpoint->names()) {
        const auto& tensor = merged.checkpoint->at(name);
        changed += tensor.computed != nullptr;
        if (!c.has(start + name)) {
            report.require(!run.value("weights_stored", false) || !tensor.computed,
                           name + " has changed");
            continue;
        }
        const Difference difference = compare(format::to_float(tensor), c.floats(start + name));
        report.require(difference.within(tolerance),
                       fmt::format("{} differs: rel_l2 {:.2e}, max_abs {:.2e}", name,
                                   difference.rel_l2, difference.max_abs));
    }
    const int expected = run.at("changed_tensors").get<int>();
    report.require(changed == expected,
                   fmt::format("{} tensors have changed, not {}", changed, expected));
}

/// The names that the reference ignores, and no others.
void compare_unused(const Case& c, const format::AdapterFile& file, const format::Network& network,
                    RunReport& report) {
    const std::string layout = file.path().stem().string();
    std::vector<std::string> ignored;
    const auto& layouts = c.json.at("layouts");
    if (layouts.contains(layout) && layouts.at(layout).contains("ignored")) {
        ignored = layouts.at(layout).at("ignored").get<std::vector<std::string>>();
    }
    std::sort(ignored.begin(), ignored.end());
    report.require(file.changes_for(network).unused == ignored,
                   "other tensors are left out than the reference leaves out");
}

/// One file, a list of files, or none, each with a strength.
std::vector<format::AppliedAdapter> adapters_of(const Case& c, const nlohmann::json& run) {
    std::vector<format::AppliedAdapter> adapters;
    const auto& files = run.at("file");
    const auto& strengths = run.at("strength");
    const auto add = [&](const nlohmann::json& file, const nlohmann::json& strength) {
        adapters.push_back(
            {std::make_shared<format::AdapterFile>(c.folder / file.get<std::string>()),
             strength.get<double>()});
    };
    if (files.is_string()) add(files, strengths);
    for (std::size_t i = 0; files.is_array() && i < files.size(); ++i) {
        add(files[i], strengths.is_array() ? strengths.at(i) : strengths);
    }
    return adapters;
}

}  // namespace

std::vector<Result> run_adapters(const Case& c, const Settings& settings) {
    std::vector<Result> results;
    const auto& kind = format::network_kind("wan-dit");
    const format::Component base{
        kind.describe(c.json.at("config"), nullptr, c.name),
        std::make_shared<format::Checkpoint>(format::Checkpoint::open(c.weights(), kind))};
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id").get<std::string>();
        RunReport report(c.name + "/" + id, settings.tolerance(c.json.at("tolerance")));
        format::Component transformer = base;
        const auto adapters = adapters_of(c, run);
        if (!adapters.empty()) {
            transformer = format::apply_adapters(base, adapters);
            compare_weights(c, run, transformer, report);
            for (const auto& adapter : adapters) {
                compare_unused(c, *adapter.file, base.network, report);
            }
        }
        // Runs without inputs of their own have the first one's.
        const std::string first = c.json.at("runs").front().at("id").get<std::string>();
        const std::string input = (c.has(id + ".in.latent") ? id : first) + ".in.";
        const auto reference = c.floats(id + ".out.velocity");
        report.output("velocity", forward(c, settings, input, transformer, reference.size()),
                      reference);
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
