\echo Use "CREATE EXTENSION evtstore" to load this file. \quit
