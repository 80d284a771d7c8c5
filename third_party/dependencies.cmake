# Finds the libraries that nfreeze is linked with; nothing of them lies in this repository.
# Each becomes a target: libcrypto, cryptopp, xxhash, zstd, cxxopts, libssh2.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

# find_dependency(TARGET HEADER PACKAGE NAME...) makes TARGET from a header and the library that
# is called one of NAMEs (none: headers only); from the static library when STATIC. PACKAGE is
# what Debian calls it, for the message. Nothing is cached, so that what was missing may appear
# and STATIC may change between two runs.
function(find_dependency target header package)
    find_path(directory NAMES ${header} NO_CACHE)
    if(NOT directory)
        message(FATAL_ERROR "${header} was not found: install ${package} (on Debian: make deps).")
    endif()
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${target} INTERFACE "${directory}")
    if(ARGN)
        if(STATIC)
            set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
        endif()
        find_library(library NAMES ${ARGN} NO_CACHE)
        if(NOT library)
            list(JOIN ARGN " or lib" names)
            message(FATAL_ERROR "The library lib${names} (${CMAKE_FIND_LIBRARY_SUFFIXES}) was not "
                "found: install ${package}, or build with what there is by `make STATIC=0`.")
        endif()
        target_link_libraries(${target} INTERFACE "${library}")
    endif()
endfunction()

# link_static_needs(TARGET SELF LIBRARY...) adds what a static library itself needs, as its
# pkg-config file says, less SELF. Such files name too much at times (Debian's for libssh2 names
# libgpg-error, which it does not use), so a library that is not there is passed over: should it
# be needed after all, the linker says so.
function(link_static_needs target self)
    list(REMOVE_ITEM ARGN ${self})
    set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
    foreach(name IN LISTS ARGN)
        unset(library)
        find_library(library NAMES ${name} NO_CACHE)
        if(library)
            target_link_libraries(${target} INTERFACE "${library}")
        endif()
    endforeach()
endfunction()

find_dependency(cryptopp cryptopp/gcm.h libcrypto++-dev cryptopp crypto++)
find_dependency(xxhash xxhash.h libxxhash-dev xxhash)
find_dependency(zstd zstd.h libzstd-dev zstd)
find_dependency(cxxopts cxxopts.hpp libcxxopts-dev)

# OpenSSL's libcrypto is used by libssh2 only. What it needs itself differs: Debian 13's static
# one compresses with zlib and zstd, Debian 12's does not.
find_dependency(libcrypto openssl/evp.h libssl-dev crypto)
if(STATIC)
    pkg_check_modules(LIBCRYPTO REQUIRED QUIET libcrypto)
    link_static_needs(libcrypto crypto ${LIBCRYPTO_STATIC_LIBRARIES})
endif()

include("${CMAKE_CURRENT_LIST_DIR}/libssh2.cmake")
