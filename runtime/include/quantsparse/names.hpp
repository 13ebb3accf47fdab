// The words of the public enums: one table for command lines, records of clips and files.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "quantsparse/attention.hpp"
#include "quantsparse/device.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse {

template <typename Enum>
struct Word {
    const char* word;
    Enum value;
};

/// All words of an enum in the order of its values. A value may have several; the first is the one
/// that is written.
template <typename Enum>
std::span<const Word<Enum>> words_of() = delete;

template <>
std::span<const Word<Sampler>> words_of();
template <>
std::span<const Word<Rng>> words_of();
template <>
std::span<const Word<FewSteps>> words_of();
template <>
std::span<const Word<Storage>> words_of();
template <>
std::span<const Word<AdapterTarget>> words_of();
template <>
std::span<const Word<Arithmetic>> words_of();
template <>
std::span<const Word<AttentionKind>> words_of();
template <>
std::span<const Word<AttentionProducts>> words_of();
template <>
std::span<const Word<MaskMode>> words_of();
template <>
std::span<const Word<BlockOrder>> words_of();
template <>
std::span<const Word<BlockTail>> words_of();
template <>
std::span<const Word<MaskGranularity>> words_of();
template <>
std::span<const Word<Sink>> words_of();
template <>
std::span<const Word<SsarMode>> words_of();
template <>
std::span<const Word<SsarSpan>> words_of();
template <>
std::span<const Word<SsarGain>> words_of();
template <>
std::span<const Word<ResidualStorage>> words_of();

template <typename Enum>
const char* word_of(Enum value) {
    for (const auto& known : words_of<Enum>()) {
        if (known.value == value) return known.word;
    }
    return "";
}

/// "full|int8-qk|int8"
template <typename Enum>
std::string list_of_words() {
    std::string list;
    for (const auto& known : words_of<Enum>()) {
        if (!list.empty()) list += '|';
        list += known.word;
    }
    return list;
}

/// The inverse of word_of. Throws Error(invalid_argument) that lists the words.
template <typename Enum>
Enum value_of(std::string_view word) {
    for (const auto& known : words_of<Enum>()) {
        if (known.word == word) return known.value;
    }
    std::string message = "'";
    message.append(word).append("' is not known: use ").append(list_of_words<Enum>());
    throw Error(ErrorCode::invalid_argument, message);
}

}  // namespace quantsparse
