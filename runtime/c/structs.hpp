// Structs of the C interface that begin with their size: programs compiled with an earlier or later
// header hand over shorter or longer ones.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

#include "quantsparse/error.hpp"

namespace quantsparse::c {

/// Zeros and the size, as far as the caller's struct reaches; `values` is the library's own.
template <typename Struct>
void initialise(Struct* out, std::size_t size, Struct values = {}) {
    if (!out || size < sizeof(std::size_t)) return;
    values.size = size;
    std::memset(static_cast<void*>(out), 0, size);
    std::memcpy(static_cast<void*>(out), &values, std::min(size, sizeof values));
}

/// The caller's struct; fields that it doesn't have are `values`'. Throws Error(invalid_argument)
/// for a size that no header had, Error(unsupported) when a field that this library doesn't know is
/// set.
template <typename Struct>
Struct given(const Struct* in, const char* name, Struct values = {}) {
    if (!in) {
        throw Error(ErrorCode::invalid_argument, std::string(name) + " is NULL", name);
    }
    if (in->size < sizeof(std::size_t) || in->size > 65536) {
        throw Error(ErrorCode::invalid_argument,
                    std::string(name) + " has no size: call its _init function first", name);
    }
    const auto* bytes = reinterpret_cast<const unsigned char*>(in);
    for (std::size_t i = sizeof values; i < in->size; ++i) {
        if (bytes[i] != 0) {
            throw Error(ErrorCode::unsupported,
                        std::string(name) +
                            " sets a field that this version of libquantsparse does not have: "
                            "install the version that the program was compiled with",
                        name);
        }
    }
    std::memcpy(static_cast<void*>(&values), in, std::min(in->size, sizeof values));
    return values;
}

/// Fills the caller's struct as far as it reaches. Throws as given().
template <typename Struct>
void hand_out(Struct* out, const char* name, Struct values) {
    if (!out) throw Error(ErrorCode::invalid_argument, std::string(name) + " is NULL", name);
    if (out->size < sizeof(std::size_t) || out->size > 65536) {
        throw Error(ErrorCode::invalid_argument,
                    std::string(name) + " has no size: call its _init function first", name);
    }
    initialise(out, out->size, values);
}

}  // namespace quantsparse::c
