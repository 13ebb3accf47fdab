#include "isa_prediction.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "attention/step_schedule.hpp"
#include "configurations.hpp"
#include "isa_code.hpp"
#include "models/registry.hpp"
#include "pipeline/stage.hpp"

namespace quantsparse::bench {
namespace {

using attention::StepKind;

/// Published figures of the largest card of a family.
struct Card {
    const char* family;
    const char* name;
    int simds;        ///< two a compute unit
    double clock_hz;  ///< boost
    double bytes_a_second;
};
constexpr Card kCards[] = {
    {"navi21", "Radeon RX 6900 XT", 160, 2.25e9, 512e9},
    {"gfx1100", "Radeon RX 7900 XTX", 192, 2.5e9, 960e9},
};

constexpr int kBranches = 2;
constexpr int kLanes = 64;

struct Case {
    const char* name;
    int weight_bits;
    double density;  ///< 1: dense attention
    AttentionProducts products = AttentionProducts::full;
};
// Without int8-qk, whose two loops do their products at different rates: one figure a kernel can't
// tell.
constexpr Case kCases[] = {{"fp32 weights, dense", 16, 1.0},
                           {"W4A8, dense", 4, 1.0},
                           {"W4A8, dense, int8", 4, 1.0, AttentionProducts::int8},
                           {"W4A8, 15 % + SSAR", 4, 0.15},
                           {"W4A8, 15 % + SSAR, int8", 4, 0.15, AttentionProducts::int8}};

/// Cycles of a SIMD for one product of 64 lanes; 0 for a kernel without products. ACO's figure, but
/// no less than issuing the hottest loop takes (two cycles an instruction), in which a group
/// narrower than a wave leaves lanes idle: ACO halves what stands in branches.
double cycles_of_product(KernelCode& code, std::uint32_t width) {
    const double products = assumed_products(code.assembly);
    if (products <= 0) return 0;
    const double estimated = static_cast<double>(code.statistics["Inverse Throughput"]) / products;
    const Mix mix = hot_loop(code.assembly);
    const double in_loop = 8 * mix.dot + 2 * mix.fused + 4 * mix.packed_half;
    if (in_loop <= 0) return estimated;
    const double used = std::min(1.0, static_cast<double>(width) / kLanes);
    return std::max(estimated, 2 * mix.vector / in_loop / used);
}

double bytes_of(const program::Program& program, const program::Operation& operation) {
    double bytes = 0;
    for (const program::Binding& binding : operation.bindings) {
        if (!binding.reads && !binding.writes) continue;
        const std::uint64_t size =
            binding.bytes ? binding.bytes : program.bytes_of(binding.tensor) - binding.offset;
        bytes += static_cast<double>(size) * (binding.reads + binding.writes);
    }
    return bytes;
}

struct StepTime {
    double products = 0;  ///< seconds
    double rest = 0;
};

class Predictor {
  public:
    Predictor(vulkan::Device& device, const Card& card) : device_(device), card_(card) {}

    /// One block with embeddings and head, one branch, at 832x480 with 81 frames.
    StepTime block(const char* config, const Case& c) {
        ModelOptions model;
        model.config = config;
        model.weight_bits = c.weight_bits;
        model.attention.kind = c.density < 1 ? AttentionKind::sparse : AttentionKind::dense;
        model.attention.density = c.density;
        model.attention.products = c.products;
        model.attention.dense_steps = model.attention.dense_layers = 0;
        model.attention = periodic(model.attention);
        const format::ModelBundle bundle = configurations(model);
        const std::vector<float> sigmas(
            static_cast<std::size_t>(2 * *model.attention.refresh_interval), 1.0f);
        const attention::StepSchedule schedule(model.attention, sigmas);
        // 832x480 with 81 frames has a latent of 21x60x104.
        const models::LatentShape latent{transformer_of(bundle).network.geometry.in_channels, 21,
                                         60, 104};
        auto options = transformer_options(model, bundle, latent, 1, schedule);
        options.layers = 1;
        program::Program program(pipeline::device_limits(device_));
        const format::Network& network = transformer_of(bundle).network;
        const auto dit = models::denoising_kind(network).make(program, network, options);
        const std::uint32_t phase =
            dit->step_phase(0, c.density < 1 ? StepKind::sparse : StepKind::dense);
        StepTime time;
        for (const program::Operation& operation : program.operations()) {
            if (operation.phase != phase) continue;
            const double moving = bytes_of(program, operation) / card_.bytes_a_second;
            const double cycles = cycles_of(operation);
            if (cycles > 0) {
                const double computing =
                    operation.work / kLanes * cycles / (card_.simds * card_.clock_hz);
                time.products += std::max(computing, moving);
            } else {
                time.rest += moving;
            }
        }
        return time;
    }

  private:
    /// Of matrix products and attention; 0 for all else.
    double cycles_of(const program::Operation& operation) {
        const std::string shader = shaders::shader_code(operation.shader).name;
        if (!shader.starts_with("gemm") && !shader.starts_with("attention")) return 0;
        const std::string name = kernel_name(operation);
        const auto known = cycles_.find(name);
        if (known != cycles_.end()) return known->second;
        KernelCode code = compile(device_, operation);
        return cycles_[name] = cycles_of_product(code, operation.specialization.at(0));
    }

    vulkan::Device& device_;
    const Card& card_;
    std::map<std::string, double> cycles_;
};

}  // namespace

Json predict_steps(vulkan::Device& device, const std::string& family) {
    Json predictions = Json::array();
    const auto card = std::find_if(std::begin(kCards), std::end(kCards),
                                   [&](const Card& c) { return c.family == family; });
    if (card == std::end(kCards)) return predictions;
    fmt::print(
        "\nPREDICTION, not a measurement: {}, {} SIMDs at {:.2f} GHz, {:.0f} GB/s; seconds of "
        "a step of 832x480, 81 frames, both branches\n",
        card->name, card->simds, card->clock_hz * 1e-9, card->bytes_a_second * 1e-9);
    Predictor predictor(device, *card);
    for (const char* config : {"wan-1.3b", "wan-14b"}) {
        ModelOptions model;
        model.config = config;
        const format::ModelBundle bundle = configurations(model);
        const int layers = static_cast<int>(transformer_of(bundle).network.blocks.size());
        double first = 0;
        for (const Case& c : kCases) {
            const StepTime block = predictor.block(config, c);
            const double products = kBranches * layers * block.products;
            const double rest = kBranches * layers * block.rest;
            if (first == 0) first = products + rest;
            fmt::print("  {:<10}{:<24}{:>9.2f} s ({:.2f} in products and attention), x{:.2f}\n",
                       config, c.name, products + rest, products, first / (products + rest));
            predictions.push_back({{"prediction", true},
                                   {"card", card->name},
                                   {"config", config},
                                   {"case", c.name},
                                   {"tokens", 32760},
                                   {"seconds_a_step", products + rest},
                                   {"seconds_in_products", products}});
        }
    }
    fmt::print("\n");
    return predictions;
}

}  // namespace quantsparse::bench
