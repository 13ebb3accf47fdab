#include "c/cancel.hpp"

#include <new>

qs_cancel* qs_cancel_create(void) {
    return new (std::nothrow) qs_cancel;
}

void qs_cancel_request(qs_cancel* cancel) {
    if (cancel) cancel->requested.store(true, std::memory_order_relaxed);
}

void qs_cancel_reset(qs_cancel* cancel) {
    if (cancel) cancel->requested.store(false, std::memory_order_relaxed);
}

int qs_cancel_requested(const qs_cancel* cancel) {
    return cancel && cancel->requested.load(std::memory_order_relaxed) ? 1 : 0;
}

void qs_cancel_destroy(qs_cancel* cancel) {
    delete cancel;
}
