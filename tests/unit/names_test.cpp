#include "quantsparse/names.hpp"

#include <gtest/gtest.h>
#include <set>

namespace quantsparse {
namespace {

template <typename Enum>
class NamesTest : public testing::Test {};

using Enums = testing::Types<Sampler, Rng, FewSteps, Storage, AdapterTarget, Arithmetic,
                             AttentionKind, AttentionProducts, MaskMode, BlockOrder, BlockTail,
                             MaskGranularity, Sink, SsarMode, SsarSpan, SsarGain, ResidualStorage>;
TYPED_TEST_SUITE(NamesTest, Enums);

TYPED_TEST(NamesTest, WordsAndValuesAreInverse) {
    std::set<std::string> words;
    for (const auto& [word, value] : words_of<TypeParam>()) {
        EXPECT_TRUE(words.insert(word).second) << word;
        EXPECT_EQ(value_of<TypeParam>(word), value);
        EXPECT_EQ(value_of<TypeParam>(word_of(value)), value);
    }
}

TYPED_TEST(NamesTest, NoValueBelowTheLastIsMissing) {
    std::set<int> values;
    for (const auto& known : words_of<TypeParam>()) values.insert(static_cast<int>(known.value));
    EXPECT_EQ(*values.rbegin() + 1, static_cast<int>(values.size()));
    EXPECT_EQ(*values.begin(), 0);
}

TEST(Names, AnUnknownWordIsRefusedWithThoseThatAre) {
    try {
        value_of<Sink>("drain");
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        EXPECT_STREQ(error.what(), "'drain' is not known: use none|frame|frame0");
    }
}

TEST(Names, ParametersOutOfRangeAreNamed) {
    const auto field_of = [](auto change) -> std::string {
        AttentionParameters parameters;
        change(parameters);
        try {
            check(parameters);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
            return error.field();
        }
        return "none";
    };
    EXPECT_EQ(field_of([](auto&) {}), "none");
    EXPECT_EQ(field_of([](auto& p) { p.density = 0; }), "density");
    EXPECT_EQ(field_of([](auto& p) { p.block_size = 48; }), "block_size");
    EXPECT_EQ(field_of([](auto& p) { p.ssar_rank = 33; }), "ssar_rank");
    EXPECT_EQ(field_of([](auto& p) { p.refresh_interval = 0; }), "refresh_interval");
    EXPECT_EQ(field_of([](auto& p) { p.dense_layers = -1; }), "dense_layers");
    EXPECT_EQ(field_of([](auto& p) { p.top_p = 0.9; }), "top_p") << "the mask is a band";
    EXPECT_EQ(field_of([](auto& p) { p.block_order = BlockOrder::tiles; }), "block_order");
    const auto chosen_with = [&](double top_p) {
        return field_of([&](auto& p) {
            p.mask = MaskMode::topk;
            p.block_order = BlockOrder::tiles;
            p.top_p = top_p;
        });
    };
    EXPECT_EQ(chosen_with(0.9), "none");
    EXPECT_EQ(chosen_with(1.1), "top_p");
    EXPECT_EQ(chosen_with(-0.1), "top_p");
    EXPECT_EQ(field_of([](auto& p) { p.refreshes = 0; }), "refreshes");
    EXPECT_EQ(field_of([](auto& p) {
                  p.kind = AttentionKind::sla;
                  p.density = 0.15;
              }),
              "none");
    EXPECT_EQ(field_of([](auto& p) {
                  p.kind = AttentionKind::sla;
                  p.mask = MaskMode::topk;
              }),
              "mask");
    EXPECT_EQ(field_of([](auto& p) {
                  p.kind = AttentionKind::sla;
                  p.ssar = SsarMode::off;
              }),
              "ssar");
    EXPECT_EQ(field_of([](auto& p) { p.refresh_steps = {0, 3, 7}; }), "none");
    EXPECT_EQ(field_of([](auto& p) { p.refresh_steps = {1, 3}; }), "refresh_steps");
    EXPECT_EQ(field_of([](auto& p) { p.refresh_steps = {0, 3, 3}; }), "refresh_steps");
    EXPECT_EQ(field_of([](auto& p) { p.refresh_steps = {0, 5, 3}; }), "refresh_steps");
    EXPECT_EQ(field_of([](auto& p) {
                  p.refresh_steps = {0};
                  p.refresh_interval = 5;
              }),
              "refresh_steps");
    EXPECT_EQ(field_of([](auto& p) {
                  p.refreshes = 2;
                  p.refresh_interval = 5;
              }),
              "refreshes");
    EXPECT_EQ(field_of([](auto& p) {
                  p.ssar = SsarMode::third;
                  p.refreshes = 2;
              }),
              "ssar");
}

}  // namespace
}  // namespace quantsparse
