// What the pipeline tells the schedule of a clip: the model's own drift, the sampler's noise, and
// which steps are whose.
#include "pipeline/steps.hpp"

#include <gtest/gtest.h>

namespace quantsparse::pipeline {
namespace {

using Steps = std::vector<int>;

class PipelineSteps : public testing::Test {
  protected:
    PipelineSteps() {
        recipe_.experts = {{"transformer", 0, {}}};
        bundle_.components["transformer"];
        bundle_.components["transformer_2"];
        p_.steps = 6;
        p_.sampler = Sampler::euler;
        p_.flow_shift = 3;
        p_.guidance_scale = 1;
        p_.attention.kind = AttentionKind::sparse;
    }

    /// Refreshes of each transformer, counted in its own steps.
    std::vector<Steps> refreshes() const {
        std::vector<Steps> all;
        for (const ExpertSteps& part : steps_of(p_, recipe_, bundle_)) {
            Steps steps;
            for (int i = 0; i < part.schedule.steps(); ++i) {
                if (part.schedule.kind(i) == attention::StepKind::refresh) steps.push_back(i);
            }
            all.push_back(steps);
        }
        return all;
    }

    Recipe recipe_;
    format::ModelBundle bundle_;
    GenerationParameters p_;
};

TEST_F(PipelineSteps, RefreshesFollowTheModelsOwnDrift) {
    EXPECT_EQ(refreshes(), (std::vector<Steps>{{0, 3}}));
    // Nothing moves before the last step, at sigma 0.375.
    bundle_.quantization.drift.assign(format::kDriftLevels, 0);
    for (std::size_t i = 27; i < format::kDriftLevels; ++i) bundle_.quantization.drift[i] = 1;
    EXPECT_EQ(refreshes(), (std::vector<Steps>{{0, 5}}));
}

TEST_F(PipelineSteps, RefreshesComeEarlierWithFreshNoise) {
    p_.sampler = Sampler::lcm;
    EXPECT_EQ(refreshes(), (std::vector<Steps>{{0, 2}}));
}

TEST_F(PipelineSteps, EachTransformerBeginsWithARefresh) {
    // Timesteps 1000, 937.5, 857, 750, 600, 375: the first takes two.
    recipe_.experts = {{"transformer", 900, {}}, {"transformer_2", 0, {}}};
    p_.attention.refresh_steps = {0, 1, 4};
    EXPECT_EQ(refreshes(), (std::vector<Steps>{{0, 1}, {0, 2}}));
    p_.attention.refresh_steps = {0};
    EXPECT_EQ(refreshes(), (std::vector<Steps>{{0}, {0}}));
    p_.attention.refresh_steps.clear();
    p_.attention.refreshes = 6;
    EXPECT_EQ(refreshes(), (std::vector<Steps>{{0, 1}, {0, 1, 2, 3}}));
}

}  // namespace
}  // namespace quantsparse::pipeline
