// Sampler trajectories with an analytic velocity. No device involved.
#include <algorithm>
#include <cmath>

#include "sampling/scheduler.hpp"
#include "selftest/case.hpp"

namespace quantsparse::selftest {
namespace {

Sampler kind_of(const std::string& name) {
    if (name == "unipc") return Sampler::unipc;
    if (name == "flow-lcm") return Sampler::lcm;
    if (name == "ddim" || name == "ddpm") return Sampler::ddim;
    if (name == "dmd") return Sampler::dmd;
    if (name == "rcm") return Sampler::rcm;
    return name == "euler" || name == "euler-steps" ? Sampler::euler : Sampler::dpmpp;
}

/// Noise levels that the run gives, on the scale of 0 to 1; empty: spread by the shift.
std::vector<double> given_sigmas(const nlohmann::json& run) {
    std::vector<double> sigmas = run.value("sigmas_in", std::vector<double>());
    for (const char* key : {"denoising_steps", "timesteps_in"}) {
        for (const double t : run.value(key, std::vector<double>())) sigmas.push_back(t / 1000);
    }
    return sigmas;
}

sampling::SamplerOptions options_of(const Case& c, const nlohmann::json& run) {
    sampling::SamplerOptions options;
    options.kind = kind_of(c.json.at("scheduler"));
    options.steps = run.at("steps").get<int>();
    const double shift = run.value("shift", 1.0);
    const auto sigmas = given_sigmas(run);
    if (options.kind == Sampler::ddim) {
        options.noise = sampling::Betas{0.00085, run.at("beta_end").get<double>()};
        options.prediction = sampling::Prediction::v;
        options.eta = c.json.at("scheduler") == "ddpm" ? 1 : 0;
    } else if (options.kind == Sampler::dmd) {
        const char* key = run.contains("denoising_steps") ? "denoising_steps" : "timesteps_in";
        options.noise = sampling::TableTimesteps{run.at(key).get<std::vector<double>>(),
                                                 run.value("table_shift", 8.0)};
    } else if (options.kind == Sampler::rcm) {
        // The cases' model gets the timesteps as they are before they are rounded.
        options.noise =
            sampling::RcmTimes{run.value("sigma_max", 80.0), false, !run.value("ode", false)};
    } else if (sigmas.empty()) {
        options.noise = sampling::FlowShift{shift};
    } else {
        options.noise = sampling::GivenSigmas{sigmas, shift};
    }
    const std::string noise = run.at("id").get<std::string>() + ".in.noise";
    if (c.has(noise)) {
        options.draw = [all = c.floats(noise)](int step, std::span<float> out) {
            std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(step) * std::ssize(out),
                        out.size(), out.begin());
        };
    }
    return options;
}

/// What rcm's model receives.
void compare_rounded_timesteps(const Case& c, const nlohmann::json& run, RunReport& report) {
    const auto expected = run.value("timesteps_as_bf16", std::vector<float>());
    if (expected.empty()) return;
    auto options = options_of(c, run);
    std::get<sampling::RcmTimes>(options.noise).bf16_timesteps = true;
    const auto timesteps = sampling::make_scheduler(options)->timesteps();
    report.require(timesteps == expected, "timesteps in bf16 differ");
}

}  // namespace

std::vector<Result> run_scheduler(const Case& c) {
    std::vector<Result> results;
    const auto& model = c.json.at("model");
    const double a = model.at("a"), b = model.at("b"), w = model.at("w"), d = model.at("d");
    const Settings settings;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id").get<std::string>() + ".";
        RunReport report(c.name + "/" + run.at("id").get<std::string>(),
                         settings.tolerance(c.json.at("tolerance")));
        const auto scheduler = sampling::make_scheduler(options_of(c, run));
        if (c.has(id + "sigmas")) {
            report.intermediate("sigmas", scheduler->sigmas(), c.floats(id + "sigmas"));
        }
        const auto& timesteps = c.io.at(id + "timesteps");
        std::vector<float> reference_timesteps;
        if (timesteps.dtype == format::DType::f32) {
            reference_timesteps = c.floats(id + "timesteps");
        } else {
            for (const int t : c.integers(id + "timesteps"))
                reference_timesteps.push_back(static_cast<float>(t));
        }
        report.intermediate("timesteps", scheduler->timesteps(), reference_timesteps);
        compare_rounded_timesteps(c, run, report);

        std::vector<float> x = c.floats(id + "in.x");
        scheduler->start(x);
        const std::vector<float> p = c.floats(id + "in.p");
        std::vector<float> trajectory = x, predictions;
        for (const float t : scheduler->timesteps()) {
            std::vector<float> v(x.size());
            const double wave = b * std::sin(w * t / 1000.0);
            for (std::size_t i = 0; i < x.size(); ++i) {
                v[i] = static_cast<float>(a * x[i] + wave + d * p[i]);
            }
            scheduler->step(x, v);
            for (const double value : scheduler->data_prediction()) {
                predictions.push_back(static_cast<float>(value));
            }
            trajectory.insert(trajectory.end(), x.begin(), x.end());
        }
        if (c.has(id + "mid.x0_pred")) {
            report.intermediate("x0_pred", predictions, c.floats(id + "mid.x0_pred"));
        }
        report.output("trajectory", trajectory, c.floats(id + "out.trajectory"));
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
