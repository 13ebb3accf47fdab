// A request to stop, from any thread or a signal handler.
#pragma once

#include <atomic>

#include "quantsparse.h"

struct qs_cancel {
    std::atomic<bool> requested{false};
    static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");
};
