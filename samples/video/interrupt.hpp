// Ctrl-C and SIGTERM as a flag that the work asks between its steps and writes.
#pragma once

namespace quantsparse::video {

/// Installs the handlers; also turns a closed pipe into a write error.
void watch_for_interrupts();

bool interrupted();

}  // namespace quantsparse::video
