// What `quality` and `velocity` do alike around the measuring of a table.
#pragma once

#include <functional>
#include <string>

#include "quality/plan.hpp"
#include "quality/results.hpp"
#include "quality/table.hpp"
#include "quantsparse/device.hpp"

namespace quantsparse::bench {

struct TableRun {
    /// Looks at the table before anything is done; throws.
    std::function<void(const QualityTable&)> check;
    std::function<TablePlan(const QualityTable&, Device&)> plan;
    /// False when stopped.
    std::function<bool(const QualityTable&, Device&, ResultsFile&)> measure;
    /// The last argument names the device, its driver and arithmetic.
    std::function<void(const QualityTable&, const ResultsFile&, const std::string&)> report;
};

/// Reads the table, plans it and stops there if that is asked, measures what the results in the
/// work directory lack, and reports. False when stopped by Ctrl-C.
bool run_table(const TableOptions& options, const TableRun& run);

/// Title, device, commit, command, settings and prompts.
Json report_head(const std::string& subcommand, const QualityTable& table,
                 const TableOptions& options, const std::string& device);

}  // namespace quantsparse::bench
