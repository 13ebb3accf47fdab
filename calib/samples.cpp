#include "calib/samples.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "calib/tensors.hpp"
#include "format/safetensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

/// `count` steps out of 0 .. steps-1, the first two and the last two among them.
std::vector<int> spread_steps(int count, int steps) {
    std::vector<int> order;
    for (const int step : {0, steps - 1, 1, steps - 2}) {
        if (step >= 0 && std::find(order.begin(), order.end(), step) == order.end()) {
            order.push_back(step);
        }
    }
    std::vector<int> chosen;
    while (static_cast<int>(chosen.size()) < count) {
        const int left = count - static_cast<int>(chosen.size());
        if (left >= steps) {
            for (int step = 0; step < steps; ++step) {
                chosen.push_back(step);
            }
            continue;
        }
        std::set<int> round(order.begin(),
                            order.begin() + std::min<std::ptrdiff_t>(left, std::ssize(order)));
        const int middle = left - static_cast<int>(round.size());
        for (int i = 0; i < middle; ++i) {  // of steps 2 .. steps-3
            round.insert(2 + ((2 * i + 1) * (steps - 4)) / (2 * middle));
        }
        chosen.insert(chosen.end(), round.begin(), round.end());
    }
    return chosen;
}

}  // namespace

std::vector<SampleChoice> choose_samples(int count, int held_out, int steps, int clips) {
    std::vector<SampleChoice> samples;
    const auto at = spread_steps((count + 1) / 2, steps);
    for (int i = 0; i < count; ++i) {
        const int pair = i / 2;
        // A step that comes again comes with the next clip.
        samples.push_back(
            {(pair + pair / steps) % clips, at[static_cast<std::size_t>(pair)], i % 2});
    }
    const int pairs = (held_out + 1) / 2;
    for (int i = 0; i < held_out; ++i) {
        SampleChoice choice{0, (2 * (i / 2) + 1) * steps / (2 * pairs), i % 2};
        for (int clip = 0; clip < clips; ++clip) {  // one that training does not see at that step
            choice.clip = (clips / 2 + i / 2 + clip) % clips;
            if (std::find(samples.begin(), samples.begin() + count, choice) ==
                samples.begin() + count) {
                break;
            }
        }
        samples.push_back(choice);
    }
    return samples;
}

void SampleSet::save(const std::filesystem::path& path, const std::string& fingerprint) const {
    format::SafetensorsWriter writer(path);
    writer.set_metadata("fingerprint", fingerprint);
    writer.set_metadata("drift", nlohmann::json(drift).dump());
    const auto& grid = states.at(0).grid;
    writer.set_metadata("shape",
                        nlohmann::json{states.size(), training, grid[0], grid[1], grid[2]}.dump());
    const auto for_each = [&](const auto& action) {
        for (std::size_t i = 0; i < states.size(); ++i) {
            action(fmt::format("{}.x", i), states[i].x);
            for (const auto& [name, tensor] : states[i].given) {
                action(fmt::format("{}.{}", i, name), tensor);
            }
        }
    };
    for_each([&](const std::string& name, const at::Tensor& tensor) {
        writer.declare(name, format::DType::f32, tensor.sizes().vec());
    });
    for_each([&](const std::string& name, const at::Tensor& tensor) {
        writer.write(name, std::as_bytes(values_of(tensor)));
    });
    writer.finish();
}

std::optional<SampleSet> SampleSet::load(const std::filesystem::path& path,
                                         const std::string& fingerprint) {
    if (!std::filesystem::exists(path)) {
        return std::nullopt;
    }
    try {
        const format::SafetensorsFile file(path);
        if (file.metadata().at("fingerprint") != fingerprint) {
            return std::nullopt;
        }
        const auto shape = nlohmann::json::parse(file.metadata().at("shape"));
        const auto tensor = [&](const std::string& name) {
            const auto& view = file.at(name);
            auto values = at::empty(view.shape, at::kFloat);
            format::to_float(view,
                             {values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
            return values;
        };
        SampleSet set;
        set.training = shape.at(1);
        set.drift = nlohmann::json::parse(file.metadata().at("drift")).get<std::vector<float>>();
        for (std::size_t i = 0; i < shape.at(0).get<std::size_t>(); ++i) {
            BlockState state;
            state.grid = {shape.at(2), shape.at(3), shape.at(4)};
            const auto prefix = fmt::format("{}.", i);
            for (const auto& [name, view] : file.tensors()) {
                if (name.starts_with(prefix)) {
                    state.given[name.substr(prefix.size())] = tensor(name);
                }
            }
            state.x = state.given.at("x");
            state.given.erase("x");
            set.quantized.push_back(state.x);
            set.states.push_back(std::move(state));
        }
        return set;
    } catch (const std::exception&) {
        return std::nullopt;  // half of an older run: collected anew
    }
}

}  // namespace quantsparse::calib
