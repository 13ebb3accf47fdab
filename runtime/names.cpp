#include "quantsparse/names.hpp"

namespace quantsparse {

template <>
std::span<const Word<Sampler>> words_of() {
    static constexpr Word<Sampler> kWords[] = {{"unipc", Sampler::unipc}, {"dpm++", Sampler::dpmpp},
                                               {"dpmpp", Sampler::dpmpp}, {"euler", Sampler::euler},
                                               {"lcm", Sampler::lcm},     {"ddim", Sampler::ddim},
                                               {"dmd", Sampler::dmd},     {"rcm", Sampler::rcm}};
    return kWords;
}

template <>
std::span<const Word<Rng>> words_of() {
    static constexpr Word<Rng> kWords[] = {{"philox", Rng::philox}, {"torch", Rng::torch}};
    return kWords;
}

template <>
std::span<const Word<FewSteps>> words_of() {
    static constexpr Word<FewSteps> kWords[] = {{"lightx2v-4", FewSteps::lightx2v_4},
                                                {"fastwan-3", FewSteps::fastwan_3},
                                                {"turbo-4", FewSteps::turbo_4}};
    return kWords;
}

template <>
std::span<const Word<Storage>> words_of() {
    static constexpr Word<Storage> kWords[] = {{"fp32", Storage::fp32}, {"half", Storage::half}};
    return kWords;
}

template <>
std::span<const Word<AdapterTarget>> words_of() {
    static constexpr Word<AdapterTarget> kWords[] = {
        {"both", AdapterTarget::both}, {"high", AdapterTarget::high}, {"low", AdapterTarget::low}};
    return kWords;
}

template <>
std::span<const Word<Arithmetic>> words_of() {
    static constexpr Word<Arithmetic> kWords[] = {{"auto", Arithmetic::automatic},
                                                  {"portable", Arithmetic::portable},
                                                  {"dot", Arithmetic::dot},
                                                  {"matrix", Arithmetic::matrix}};
    return kWords;
}

const char* arithmetic_name(Arithmetic arithmetic) {
    return word_of(arithmetic);
}

template <>
std::span<const Word<AttentionKind>> words_of() {
    static constexpr Word<AttentionKind> kWords[] = {{"dense", AttentionKind::dense},
                                                     {"sparse", AttentionKind::sparse},
                                                     {"sla", AttentionKind::sla}};
    return kWords;
}

template <>
std::span<const Word<AttentionProducts>> words_of() {
    static constexpr Word<AttentionProducts> kWords[] = {{"full", AttentionProducts::full},
                                                         {"int8-qk", AttentionProducts::int8_qk},
                                                         {"int8", AttentionProducts::int8}};
    return kWords;
}

template <>
std::span<const Word<MaskMode>> words_of() {
    static constexpr Word<MaskMode> kWords[] = {{"exact", MaskMode::exact},
                                                {"svg", MaskMode::svg},
                                                {"topk", MaskMode::topk},
                                                {"jenga", MaskMode::jenga}};
    return kWords;
}

template <>
std::span<const Word<BlockOrder>> words_of() {
    static constexpr Word<BlockOrder> kWords[] = {
        {"frames", BlockOrder::frames}, {"tiles", BlockOrder::tiles}, {"curve", BlockOrder::curve}};
    return kWords;
}

template <>
std::span<const Word<BlockTail>> words_of() {
    static constexpr Word<BlockTail> kWords[] = {{"none", BlockTail::none},
                                                 {"pooled", BlockTail::pooled}};
    return kWords;
}

template <>
std::span<const Word<MaskGranularity>> words_of() {
    static constexpr Word<MaskGranularity> kWords[] = {{"token", MaskGranularity::token},
                                                       {"block", MaskGranularity::block}};
    return kWords;
}

template <>
std::span<const Word<Sink>> words_of() {
    static constexpr Word<Sink> kWords[] = {
        {"none", Sink::none}, {"frame", Sink::frame}, {"frame0", Sink::frame0}};
    return kWords;
}

template <>
std::span<const Word<SsarMode>> words_of() {
    static constexpr Word<SsarMode> kWords[] = {
        {"off", SsarMode::off},       {"none", SsarMode::none},   {"first", SsarMode::first},
        {"second", SsarMode::second}, {"third", SsarMode::third}, {"svd", SsarMode::svd}};
    return kWords;
}

template <>
std::span<const Word<SsarSpan>> words_of() {
    static constexpr Word<SsarSpan> kWords[] = {{"refs", SsarSpan::references},
                                                {"adjacent", SsarSpan::adjacent}};
    return kWords;
}

template <>
std::span<const Word<SsarGain>> words_of() {
    static constexpr Word<SsarGain> kWords[] = {
        {"one", SsarGain::one}, {"linear", SsarGain::linear}, {"sigma", SsarGain::sigma}};
    return kWords;
}

template <>
std::span<const Word<ResidualStorage>> words_of() {
    static constexpr Word<ResidualStorage> kWords[] = {{"half", ResidualStorage::half},
                                                       {"int8", ResidualStorage::int8},
                                                       {"int4", ResidualStorage::int4},
                                                       {"lowrank", ResidualStorage::low_rank}};
    return kWords;
}

}  // namespace quantsparse
