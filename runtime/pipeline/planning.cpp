#include "pipeline/planning.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "models/registry.hpp"
#include "vulkan/arena.hpp"

namespace quantsparse::pipeline {
namespace {

class Planner {
  public:
    Planner(const program::Limits& limits, const format::ModelBundle& bundle,
            std::uint64_t budget_bytes)
        : limits_(limits), bundle_(bundle), budget_(budget_bytes) {
        result_.memory.budget_bytes = budget_bytes;
    }

    void text_encoder(const TextInput& text, int most_tokens, bool half) {
        const format::Network& network = bundle_.network(text.encoder);
        program::Program program(limits_);
        const auto encoder = models::text_encoder_kind(network).make(program, network, most_tokens,
                                                                     most_tokens, half);
        StagePlan stage = stage_plan(text.encoder.c_str(), program);
        stage.residency = "one layer at a time";
        add(StageKind::text_encoder, stage, stage.total_bytes());
    }

    void transformer(const char* name, const format::Network& network,
                     const models::DenoisingOptions& options) {
        program::Program program(limits_);
        const auto transformer = models::denoising_kind(network).make(program, network, options);
        constexpr std::uint64_t kStaging = vulkan::Arena::kStagingBytes;
        // One byte is no budget: everything that can be streamed is.
        const auto least = program::choose_residency(program, 1);
        program::Residency residency;
        if (budget_) {
            residency =
                program::choose_residency(program, budget_ > kStaging ? budget_ - kStaging : 1);
        }
        std::uint64_t& resident = result_.memory.resident_bytes;
        resident = std::max(resident, stage_plan(name, program).total_bytes());
        add(StageKind::transformer, stage_plan(name, program, residency),
            stage_plan(name, program, least).total_bytes());
        result_.residency.push_back(std::move(residency));
    }

    void autoencoder(const char* name, const format::Network& network, int height, int width) {
        const std::uint64_t least = least_vae_bytes(limits_, network, height, width);
        // A budget below the least is refused later, with all stages known.
        const std::uint64_t budget = budget_ ? std::max(budget_, least) : 0;
        const VaeTile tile = choose_vae_tile(limits_, network, height, width, budget);
        program::Program program(limits_);
        const auto vae = models::video_vae_kind(network).make(
            program, network, models::VideoVae::Direction::decode, tile.height, tile.width);
        StagePlan stage = stage_plan(name, program);
        const bool tiled = tile.height < height || tile.width < width;
        stage.residency = tiled ? fmt::format("tiles of {}x{} of {}x{} latent cells", tile.width,
                                              tile.height, width, height)
                                : "the whole picture at once";
        add(StageKind::autoencoder, stage, least);
        result_.tile = tile;
    }

    StagesPlan take() { return std::move(result_); }

  private:
    void add(StageKind kind, StagePlan stage, std::uint64_t least) {
        MemoryPlan& plan = result_.memory;
        stage.kind = kind;
        plan.peak_bytes = std::max(plan.peak_bytes, stage.total_bytes());
        plan.least_bytes = std::max(plan.least_bytes, least);
        plan.stages.push_back(std::move(stage));
    }

    const program::Limits& limits_;
    const format::ModelBundle& bundle_;
    std::uint64_t budget_;
    StagesPlan result_;
};

}  // namespace

StagesPlan plan_stages(const program::Limits& limits, const format::ModelBundle& bundle,
                       const std::vector<models::DenoisingOptions>& transformers,
                       std::uint64_t budget_bytes) {
    const Recipe& recipe = recipe_of(bundle.architecture);
    Planner planner(limits, bundle, budget_bytes);
    const models::DenoisingOptions& first = transformers.front();
    const int most_tokens = bundle.network(recipe.experts.front().role).geometry.text_tokens;
    for (const TextInput& text : recipe.texts) planner.text_encoder(text, most_tokens, first.half);
    for (std::size_t i = 0; i < recipe.experts.size(); ++i) {
        planner.transformer(i == 0 ? "dit" : "dit 2", bundle.network(recipe.experts[i].role),
                            transformers.at(i));
    }
    planner.autoencoder("vae", bundle.network(recipe.vae), first.latent.height, first.latent.width);
    return planner.take();
}

}  // namespace quantsparse::pipeline
