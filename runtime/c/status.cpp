#include "c/status.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "c/structs.hpp"
#include "quantsparse/version.hpp"

namespace quantsparse::c {
namespace {

qs_status status_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::invalid_argument:
            return QS_INVALID_ARGUMENT;
        case ErrorCode::bad_file:
            return QS_BAD_FILE;
        case ErrorCode::io:
            return QS_IO;
        case ErrorCode::unsupported:
            return QS_UNSUPPORTED;
        case ErrorCode::device:
            return QS_DEVICE;
        case ErrorCode::out_of_memory:
            return QS_OUT_OF_MEMORY;
        case ErrorCode::non_finite:
            return QS_NON_FINITE;
    }
    return QS_INTERNAL;
}

/// Cut before a UTF-8 character that doesn't fit whole.
template <std::size_t kSize>
void copy_text(char (&out)[kSize], const char* text) {
    std::size_t length = std::strlen(text);
    if (length >= kSize) {
        length = kSize - 1;
        while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) --length;
    }
    std::memcpy(out, text, length);
    out[length] = '\0';
}

}  // namespace

qs_status report(qs_error* error, qs_status status, const char* message, const char* field) {
    if (error && error->size >= sizeof(std::size_t) && error->size <= 65536) {
        qs_error values{};
        values.status = status;
        copy_text(values.field, field);
        copy_text(values.message, message);
        initialise(error, error->size, values);
    }
    return status;
}

qs_status report(qs_error* error, const Error& failure) {
    return report(error, status_of(failure.code()), failure.what(), failure.field().c_str());
}

void require(const void* pointer, const char* name) {
    if (!pointer) {
        throw Error(ErrorCode::invalid_argument, fmt::format("{} is NULL", name), name);
    }
}

}  // namespace quantsparse::c

void qs_version(int* major, int* minor, int* patch) {
    if (major) *major = QS_VERSION_MAJOR;
    if (minor) *minor = QS_VERSION_MINOR;
    if (patch) *patch = QS_VERSION_PATCH;
}

const char* qs_version_string(void) {
    return quantsparse::kVersion;
}

void qs_error_init_sized(qs_error* error, size_t size) {
    quantsparse::c::initialise(error, size);
}

const char* qs_status_string(qs_status status) {
    constexpr std::array kNames = {
        "ok",          "cancelled",    "invalid argument", "bad file",     "i/o error",
        "unsupported", "device error", "out of memory",    "not a number", "internal error"};
    const auto index = static_cast<std::size_t>(status);
    return index < kNames.size() ? kNames[index] : "unknown status";
}
