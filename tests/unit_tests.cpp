// Unit tests by section of nfreeze.cpp, which is included whole: what it keeps to itself can be
// called here. Names of tests begin with their section's.
#include "../nfreeze.cpp"

#include <doctest/doctest.h>
#include <openssl/evp.h>
#include <sys/mman.h>

#include "proxy.hpp"
#include "support.hpp"
#include "trees.hpp"

#include "unit/common.hpp"

#include "unit/02_messages.hpp"
#include "unit/03_handles.hpp"
#include "unit/04_encoding.hpp"
#include "unit/05_crypto.hpp"
#include "unit/06_store.hpp"
#include "unit/06_walls.hpp"
#include "unit/07_chunker.hpp"
#include "unit/08a_objects.hpp"
#include "unit/08b_index.hpp"
#include "unit/08c_repository.hpp"
#include "unit/08d_chunks.hpp"
#include "unit/09_trees.hpp"
#include "unit/10_patterns.hpp"
#include "unit/12_looking.hpp"
#include "unit/13_care.hpp"
#include "unit/13_prune.hpp"
#include "unit/14_faults.hpp"
#include "unit/15_hostile.hpp"
#include "unit/16_secrets.hpp"
#include "unit/17_sizes.hpp"
#include "unit/18_large.hpp"
