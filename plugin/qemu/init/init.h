/* SPDX-License-Identifier: MIT */
/* What every init of ours does first. */
#ifndef NESTSCOPE_INIT_H
#define NESTSCOPE_INIT_H

/* Mounts /proc, /sys, debugfs and /dev; makes /tmp. */
void mount_all(void);

/*
 * Loads the modules in /modules, named so that the order of names is the order of
 * loading. Says "WHO: PATH: reason" of one that cannot be loaded.
 */
void load_modules(const char *who);

#endif
