// Generators, plans and videos behind the handles of the C interface.
#pragma once

#include <memory>
#include <string>

#include "quantsparse.h"
#include "quantsparse/pipeline.hpp"

struct qs_generator {
    std::shared_ptr<quantsparse::Device> device;  ///< outlives the generator
    quantsparse::Generator generator;
    qs_log_fn log = nullptr;
    void* log_user = nullptr;

    void warn(const std::string& text) const {
        if (log) log(log_user, QS_LOG_WARNING, text.c_str());
    }
};

struct qs_plan {
    quantsparse::MemoryPlan memory;
    std::string decision;
};

struct qs_video {
    quantsparse::Video video;
};
