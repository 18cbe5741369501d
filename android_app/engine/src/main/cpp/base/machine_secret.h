// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "base/sha256.h"

namespace moe_mobile {

// 32 random bytes that one user of one machine keeps for good. What carries a digest made with them
// (PackedFile) was made here: nobody else knows them.
using MachineSecret = Sha256Digest;

// Where a host keeps what it remembers from run to run: $MOE_MOBILE_STATE_DIR, else
// $XDG_STATE_HOME/moe-mobile, else $HOME/.local/state/moe-mobile; empty if none is set. For hosts:
// the engine itself reads no environment variable.
std::string default_state_directory();

// Each host says once, before anything else, in which folder the secret lies.
void set_state_directory(std::string directory);
// That folder; empty if none was set.
std::string state_directory();

// The secret, made on first use. kReadOnly or kIo if it cannot be read or made, or belongs or is
// open to other users, naming its file; kUsage if no folder was set.
MachineSecret machine_secret();
// The same, but empty if there is none yet, or no folder was set.
std::optional<MachineSecret> existing_machine_secret();

}  // namespace moe_mobile
