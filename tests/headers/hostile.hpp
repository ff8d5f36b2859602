// SPDX-License-Identifier: MIT
#pragma once

// Names that headers of other projects and systems define as macros. A public header that uses one as an identifier
// does not compile after them; std::min is written (std::min)(a, b) in a header, as the standard library itself does.
#define min(a, b) hostile macro  // windows.h
#define max(a, b) hostile macro
#define near hostile macro
#define far hostile macro
#define small hostile macro  // rpcndr.h
#define interface hostile macro
#define IN hostile macro
#define OUT hostile macro
#define OPTIONAL hostile macro
#define ERROR hostile macro
#define DELETE hostile macro
#define CONST hostile macro
#define VOID hostile macro
#define STRICT hostile macro
#define TRUE hostile macro
#define FALSE hostile macro
#define I hostile macro  // complex.h
#define B0 hostile macro  // termios.h
#define B1 hostile macro
#define major(x) hostile macro  // sys/sysmacros.h
#define minor(x) hostile macro
#define minor_version hostile macro
#define DOMAIN hostile macro  // math.h of old
#define OVERFLOW hostile macro
#define UNDERFLOW hostile macro
#define unix hostile macro  // g++ in its GNU dialect
#define linux hostile macro
#define None hostile macro  // X11
#define Bool hostile macro
#define Status hostile macro
#define Always hostile macro
#define Success hostile macro
#define CHECK(x) hostile macro  // test and logging libraries
#define REQUIRE(x) hostile macro
#define LOG(x) hostile macro
#define ASSERT(x) hostile macro
#define _(x) hostile macro  // gettext
#define PI hostile macro
#define EPS hostile macro
#define EPSILON hostile macro
#define SIZE hostile macro
#define PAGE_SIZE hostile macro
#define ALIGN hostile macro
