// Exceptions to codes and texts: none leaves the library.
#pragma once

#include <exception>
#include <new>

#include "quantsparse.h"
#include "quantsparse/error.hpp"

namespace quantsparse::c {

/// Fills `error`, which may be NULL or have no size, and returns `status`.
qs_status report(qs_error* error, qs_status status, const char* message, const char* field = "");
qs_status report(qs_error* error, const Error& failure);

/// What `work` returns, or what it threw.
template <typename Work>
qs_status guarded(qs_error* error, Work&& work) noexcept {
    try {
        const qs_status status = work();
        return status == QS_OK ? report(error, QS_OK, "")
                               : report(error, status, qs_status_string(status));
    } catch (const Error& failure) {
        return report(error, failure);
    } catch (const std::bad_alloc&) {
        return report(error, QS_OUT_OF_MEMORY, "the host has no memory left");
    } catch (const std::exception& failure) {
        return report(error, QS_INTERNAL, failure.what());
    } catch (...) {
        return report(error, QS_INTERNAL, "a callback threw something");
    }
}

/// Throws Error(invalid_argument) naming what must not be NULL.
void require(const void* pointer, const char* name);

}  // namespace quantsparse::c
